package kept

import "time"

// SetEndSettles changes how long an end between two messages settles, and returns how to change it back.
func SetEndSettles(d time.Duration) (back func()) {
	was := endSettles
	endSettles = d
	return func() { endSettles = was }
}
