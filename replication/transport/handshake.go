package transport

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"lockstep/replication/identity"
	"lockstep/replication/wire"
)

// maxHello bounds a frame of the handshake: far above any, far below what could
// be used to make us allocate.
const maxHello = 1 << 10

// refuseLinger is how long a refused peer gets to read why, and how long we listen
// for why a peer that we do not trust refuses us.
const refuseLinger = 500 * time.Millisecond

var errUnexpected = errors.New("another frame than the handshake's")

// Owner finds whose pinned certificate the peer presented.
func (c *Conn) Owner(id *identity.Identity) (node string, refusal *Error) {
	certs := c.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return "", &Error{Reason: RefusedWrongKey, Detail: "no certificate"}
	}
	node, ours := id.Owner(certs[0].Raw)
	switch {
	case ours:
		return "", &Error{Reason: RefusedWrongKey, Detail: "it is node " + id.Node + "'s own key: each node needs its own directory of `lockstep keys`"}
	case node == "":
		return "", &Error{Reason: RefusedWrongKey, Detail: "the certificate is not in peers/ of the identity: both nodes must use keys of the same `lockstep keys` run"}
	}
	return node, nil
}

// Name is what a node says of itself in any handshake.
type Name struct {
	Pair, Node             string
	MinVersion, MaxVersion uint8 // of the protocol that the connection is for
}

// Vet checks what the peer says of itself against what we are and against the
// owner of its key.
func Vet(ours, peer Name, owner string) *Error {
	if peer.Pair != ours.Pair {
		return &Error{Reason: RefusedWrongPair, Detail: fmt.Sprintf("pair.name is %q on %s and %q on %s", ours.Pair, ours.Node, peer.Pair, peer.Node)}
	}
	if peer.Node != owner {
		return &Error{Reason: RefusedWrongNode, Detail: fmt.Sprintf("the peer calls itself %q with the key of %q", peer.Node, owner)}
	}
	if min(ours.MaxVersion, peer.MaxVersion) < max(ours.MinVersion, peer.MinVersion) {
		return &Error{Reason: RefusedVersion, Detail: fmt.Sprintf("%s speaks protocol %d to %d, %s %d to %d: upgrade the older one",
			ours.Node, ours.MinVersion, ours.MaxVersion, peer.Node, peer.MinVersion, peer.MaxVersion)}
	}
	return nil
}

// Hear reads one frame of the handshake, of type want or a refusal, and no byte
// beyond. It returns the frame's payload.
func (c *Conn) Hear(want wire.Type) ([]byte, *Error) {
	head := make([]byte, wire.HeaderLen, maxHello)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, HandshakeError(err)
	}
	n, err := wire.FrameLen(head)
	if err == nil && n > maxHello {
		err = wire.ErrTooLarge
	}
	if err != nil {
		return nil, HandshakeError(err)
	}
	frame := head[:n]
	if _, err := io.ReadFull(c, frame[wire.HeaderLen:]); err != nil {
		return nil, HandshakeError(err)
	}
	header, payload, err := wire.Decode(frame)
	if err != nil {
		return nil, HandshakeError(err)
	}
	switch header.Type {
	case want:
		return payload, nil
	case wire.TypeReject:
		reject, err := wire.DecodeReject(payload)
		if err != nil {
			return nil, HandshakeError(err)
		}
		return nil, &Error{Reason: rejectReason(reject.Code), ByPeer: true, Detail: reject.Text}
	}
	return nil, HandshakeError(errUnexpected)
}

// Refuse tells the peer why and returns the refusal. The peer may be gone or
// deaf; what we decided stands either way. The caller closes the connection.
func (c *Conn) Refuse(refusal *Error) *Error {
	frame := wire.AppendReject(nil, wire.Reject{Code: rejectCode(refusal.Reason), Text: refusal.Detail})
	if _, err := c.Write(frame); err == nil {
		// Closing with unread bytes would reset the connection and could destroy
		// the refusal on its way: read them until the peer, told, closes.
		_ = c.CloseWrite()
		_ = c.SetDeadline(time.Now().Add(refuseLinger))
		_, _ = io.Copy(io.Discard, io.LimitReader(c, maxHello))
	}
	return refusal
}

// RefuseKey is Refuse for a dialling side that does not know the peer's key, which
// is also what a node looks like that does not serve our pair: if it says so, that
// is the better reason.
func (c *Conn) RefuseKey(refusal *Error) *Error {
	_ = c.SetReadDeadline(time.Now().Add(refuseLinger))
	if _, said := c.Hear(wire.TypeHello); said != nil && said.ByPeer && said.Reason == RefusedWrongPair {
		return said
	}
	return c.Refuse(refusal)
}

// HandshakeError makes a refusal of what went wrong before the session stood.
func HandshakeError(err error) *Error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &Error{Reason: RefusedTimeout, Err: err}
	}
	return &Error{Reason: RefusedHandshake, Err: err}
}
