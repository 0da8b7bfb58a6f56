// Package identity owns what a node of a pair is known by: its key, its
// certificate, the certificates it trusts, and the directory that holds them.
//
// It must not know who connects to whom, nor what is said on a connection.
package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Identity is a node's key and the certificates it trusts. Trust is by exact
// certificate: there is no authority and nothing else is read from them but
// the node's name. Read-only once loaded.
type Identity struct {
	Node string // the name in our own certificate
	Pair string
	cert tls.Certificate
	pins map[string][]byte // DER certificate by node name
}

// Files of an identity directory.
const (
	keyFile  = "node.key"
	certFile = "node.crt"
	pairFile = "pair"
	peersDir = "peers"
	certExt  = ".crt"
)

const (
	maxIdentityFile = 64 << 10
	maxPins         = 64
)

// Hint tells an operator where identities come from.
const Hint = "`lockstep keys` makes it, one directory per node"

// Load reads the directory that Write made for one node.
func Load(dir string) (*Identity, error) {
	keyPath := filepath.Join(dir, keyFile)
	info, err := os.Stat(keyPath)
	if err != nil {
		return nil, fmt.Errorf("read identity %q: %w (%s)", dir, err, Hint)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("read identity %q: %s has mode %04o: others can read the key (chmod 600 it, and make new keys if others have)", dir, keyFile, mode)
	}
	keyPEM, err := readSmall(keyPath)
	if err != nil {
		return nil, fmt.Errorf("read identity %q: %w", dir, err)
	}
	certPEM, err := readSmall(filepath.Join(dir, certFile))
	if err != nil {
		return nil, fmt.Errorf("read identity %q: %w (%s)", dir, err, Hint)
	}
	pair, err := readSmall(filepath.Join(dir, pairFile))
	if err != nil {
		return nil, fmt.Errorf("read identity %q: %w (%s)", dir, err, Hint)
	}
	id := &Identity{Pair: strings.TrimSpace(string(pair)), pins: map[string][]byte{}}
	if id.cert, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("read identity %q: %w (%s and %s must be of one `lockstep keys` run)", dir, err, keyFile, certFile)
	}
	id.Node = id.cert.Leaf.Subject.CommonName
	if err := id.loadPins(dir); err != nil {
		return nil, fmt.Errorf("read identity %q: %w", dir, err)
	}
	return id, nil
}

func (id *Identity) loadPins(dir string) error {
	entries, err := os.ReadDir(filepath.Join(dir, peersDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), certExt)
		if !ok {
			continue
		}
		if len(id.pins) == maxPins {
			return fmt.Errorf("more than %d certificates in %s", maxPins, peersDir)
		}
		data, err := readSmall(filepath.Join(dir, peersDir, e.Name()))
		if err != nil {
			return err
		}
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "CERTIFICATE" {
			return fmt.Errorf("%s/%s is not a PEM certificate", peersDir, e.Name())
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("parse %s/%s: %w", peersDir, e.Name(), err)
		}
		if cert.Subject.CommonName != name {
			return fmt.Errorf("%s/%s belongs to node %q: the file was renamed or mixed up", peersDir, e.Name(), cert.Subject.CommonName)
		}
		id.pins[name] = block.Bytes
	}
	return nil
}

// Has reports whether a certificate for the node is pinned.
func (id *Identity) Has(node string) bool { return id.pins[node] != nil }

// Peers returns the names of the nodes whose certificates are pinned, sorted.
func (id *Identity) Peers() []string {
	names := make([]string, 0, len(id.pins))
	for name := range id.pins {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Servers returns the names of the servers whose certificates are pinned, sorted.
func (id *Identity) Servers() []string {
	return slices.DeleteFunc(id.Peers(), func(name string) bool {
		cert, err := x509.ParseCertificate(id.pins[name])
		return err != nil || !IsServer(cert)
	})
}

// Witness returns the third node of the pair whose appliances are named: the one
// whose certificate is pinned beside theirs.
func (id *Identity) Witness(appliances [2]string) (string, error) {
	var others []string
	for _, name := range append(id.Peers(), id.Node) {
		if !slices.Contains(appliances[:], name) {
			others = append(others, name)
		}
	}
	how := fmt.Sprintf("`lockstep keys --pair %s --members %s,%s --witness NAME` makes keys for all three", id.Pair, appliances[0], appliances[1])
	switch len(others) {
	case 0:
		return "", fmt.Errorf("identity of node %q holds no witness's certificate (%s)", id.Node, how)
	case 1:
		return others[0], nil
	}
	return "", fmt.Errorf("identity of node %q holds certificates of %s beside the two appliances', and only one can be the witness (%s)",
		id.Node, strings.Join(others, ", "), how)
}

// Owner returns the node whose pinned certificate this is. ours reports that
// it is our own, which happens when one node's directory was copied to both.
func (id *Identity) Owner(der []byte) (node string, ours bool) {
	for name, pin := range id.pins {
		if bytes.Equal(pin, der) {
			return name, false
		}
	}
	return "", bytes.Equal(id.cert.Certificate[0], der)
}

// TLS is the configuration for both directions, for a connection that speaks one
// of protocols (ALPN, RFC 7301). crypto/tls proves that the peer holds the key of
// the certificate it presents; whether that is a pinned one is to be checked right
// after the handshake (Owner), where the peer can be told.
func (id *Identity) TLS(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.cert},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // no authority, no host names: the pin is the verification
		SessionTicketsDisabled: true, // a resumed session would skip the certificate
		// The sync link carries large batches from the first byte on; small records
		// would only cost CPU.
		DynamicRecordSizingDisabled: true,
		NextProtos:                  protocols,
	}
}

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxIdentityFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxIdentityFile)
	}
	return os.ReadFile(path)
}
