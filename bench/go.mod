module wssgate/bench

go 1.26.0

replace wssgate => ../

require wssgate v0.0.0-00010101000000-000000000000

require (
	github.com/fsnotify/fsnotify v1.10.1 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
