package determinant

import (
	"encoding/binary"
	"net/netip"
)

// Connection is the client's address and port, and those it has connected to. The zero Connection
// stands for the program's start, which serves nobody yet.
type Connection struct{ Client, Service netip.AddrPort }

func (c Connection) String() string {
	if !c.Client.IsValid() {
		return "start"
	}
	return c.Client.String() + "->" + c.Service.String()
}

// Instance is one life of a connection: addresses and ports come again. Nonce is drawn by who
// decides, and never twice.
type Instance struct {
	Number uint64
	Nonce  [16]byte
}

// Kind is what a call is about.
type Kind uint8

const (
	Clock  Kind = iota // present time
	Epoch              // of the monotonic clock
	File               // stat and its relatives
	Volume             // statfs and its relatives
	CPU                // a clock of processor time
	Kinds
)

// Name is a determinant's. Path is empty for the process that accepted the connection, and has an
// element of eight bytes more for each fork on the way from it, with the fork's number. Position is how
// many bytes of the request that process had read, where that matters (Clock), else 0.
type Name struct {
	Instance        uint64
	Path            string
	Kind            Kind
	Position, Place uint64
}

// Child is the path of a process's n-th child.
func Child(path string, n uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(path), n))
}

// key is a name in bytes: equal if and only if the names are.
func (n Name) key() string {
	return string(binary.BigEndian.AppendUint64(nil, n.Instance)) + n.Within()
}

// Within is a name in bytes among those of one instance.
func (n Name) Within() string {
	b := make([]byte, 0, 17+len(n.Path))
	b = append(b, byte(n.Kind))
	b = binary.BigEndian.AppendUint64(b, n.Position)
	b = binary.BigEndian.AppendUint64(b, n.Place)
	return string(append(b, n.Path...))
}
