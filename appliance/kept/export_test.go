package kept

import "time"

// SetEndSettles changes how long an end between two messages settles, and returns how to change it back.
func SetEndSettles(d time.Duration) (back func()) {
	was := endSettles
	endSettles = d
	return func() { endSettles = was }
}

// SetPaceWait sets how long a replica is kept waiting, until the function that it returns is called.
func SetPaceWait(d time.Duration) (undo func()) {
	was := paceWait
	paceWait = d
	return func() { paceWait = was }
}
