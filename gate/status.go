package gate

// What Serve returns, which is the program's exit status.
const (
	statusOK      = 0 // drained
	statusFailed  = 1 // could not do it
	statusDrained = 3 // the drain's deadline passed with tunnels still open
)
