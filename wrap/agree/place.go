package agree

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/replication/identity"
)

// Place is where determinants are decided: a socket of this machine, root's alone, or an address and port, with keys.
type Place struct {
	Socket string
	// Addresses are ADDRESS:PORT, if not a socket: one to listen at, those to be asked, of whom one decides at a time. Both sides know
	// each other by Identity.
	Addresses []string
	Identity  *identity.Identity
}

func (p Place) String() string {
	if p.Socket == "" {
		return strings.Join(p.Addresses, ",")
	}
	return p.Socket
}

const (
	// protocol is what is spoken over TLS (ALPN, RFC 7301).
	protocol = "lockstep-wrap/2"
	// handshakeTimeout is how long whoever connects may take to show who it is.
	handshakeTimeout = 3 * time.Second
	// A server whose host is gone is missed after goneAfter of silence: nobody can come in its place before. Its host is asked
	// every askHostEvery, from the first silent one on.
	goneAfter    = 5 * time.Second
	askHostEvery = time.Second
)

// listen listens there.
func (p Place) listen() (net.Listener, error) {
	if p.Socket == "" {
		if len(p.Addresses) != 1 {
			return nil, fmt.Errorf("listening at %v: it takes one address", p.Addresses)
		}
		l, err := net.Listen("tcp", p.Addresses[0])
		if err != nil {
			return nil, fmt.Errorf("listening for servers: %w", err)
		}
		return l, nil
	}
	if old, err := net.Dial("unix", p.Socket); err == nil {
		old.Close()
		return nil, fmt.Errorf("somebody else decides at %s already", p.Socket)
	}
	if err := removeSocket(p.Socket); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.Socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", p.Socket, err)
	}
	if err := os.Chmod(p.Socket, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// removeSocket removes what was left of an earlier socket, and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking for an earlier socket: %w", err)
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and no socket: name another path, or remove it", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing what was left of an earlier socket: %w", err)
	}
	return nil
}

// accepted says who has connected. Of a socket it is who the server says it is.
func (p Place) accepted(c net.Conn) (conn net.Conn, server string, err error) {
	if p.Socket != "" {
		return c, "", nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if err := noticeLoss(c); err != nil {
		return nil, "", err
	}
	t := tls.Server(c, p.Identity.TLS(protocol))
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, "", err
	}
	server, err = p.owner(t, true)
	return t, server, err
}

// noticeLoss has the kernel end a connection of which nothing is heard any more, whether or not something is under way to it.
func noticeLoss(c net.Conn) error {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("a connection of kind %T", c)
	}
	probes := int((goneAfter - askHostEvery) / askHostEvery)
	if err := t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: askHostEvery, Interval: askHostEvery, Count: probes}); err != nil {
		return err
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(goneAfter/time.Millisecond)) // tcp(7)
	})
	return errors.Join(err, refused)
}

// owner is whose the other end's key is, which has to be a server's, or else that of somebody who decides.
func (p Place) owner(c *tls.Conn, server bool) (string, error) {
	cert := c.ConnectionState().PeerCertificates[0] // TLS demands one
	node, ours := p.Identity.Owner(cert.Raw)
	switch {
	case ours:
		return "", fmt.Errorf("the other end has the key of %q, which is our own: each node gets its own directory of keys", p.Identity.Node)
	case node == "":
		return "", errors.New("the other end's key is unknown: the keys have to be of one `lockstep keys` run")
	case identity.IsServer(cert) != server:
		return "", fmt.Errorf("the other end has the key of %q, which was made for something else: `lockstep keys --servers` names the servers, --members who decides", node)
	}
	return node, nil
}

// choices is how many there are to be asked.
func (p Place) choices() int { return max(len(p.Addresses), 1) }

// dial connects a server with the n-th of them.
func (p Place) dial(n int, until time.Time) (net.Conn, error) {
	kind, at := "unix", p.Socket
	if at == "" {
		kind, at = "tcp", p.Addresses[n]
	}
	d := net.Dialer{Deadline: until}
	conn, err := d.Dial(kind, at)
	if err != nil {
		return nil, err
	}
	defer conn.Close() // the socket is a copy
	s, err := newSocket(conn)
	if err != nil || p.Socket != "" {
		return s, err
	}
	s.until = until
	t := tls.Client(s, p.Identity.TLS(protocol))
	err = t.Handshake()
	if err == nil {
		_, err = p.owner(t, false)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return t, nil
}
