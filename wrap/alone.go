//go:build amd64

package wrap

import (
	"crypto/rand"

	"lockstep/wrap/determinant"
)

// alone is a server's own authority, if it is the only one.
type alone struct{ log *determinant.Log }

// Alone returns an authority for one server.
func Alone() determinant.Authority {
	log := determinant.NewLog(1, func() (n [16]byte) {
		_, _ = rand.Read(n[:]) // it never fails (crypto/rand)
		return n
	})
	log.Arrive("")
	return alone{log}
}

func (a alone) Join(c determinant.Connection) (determinant.Instance, error) { return a.log.Join("", c) }

func (a alone) Decide(n determinant.Name, proposal []byte) ([]byte, error) {
	return a.log.Decide("", n, proposal)
}

func (a alone) Leave(instance uint64) error {
	a.log.Leave("", instance)
	return nil
}
