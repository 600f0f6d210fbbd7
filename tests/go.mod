module wssgate/tests

go 1.26.0

require wssgate v0.0.0

require github.com/rogpeppe/go-internal v1.16.0 // indirect

replace wssgate => ../

ignore ./node_modules
