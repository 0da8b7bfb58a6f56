package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Write makes a key and a self-signed certificate for every node and
// writes one directory per node, out/NODE, usable as pair.identity: the node's
// key and certificate, and the certificates of all the others. Existing
// directories are replaced only with force, and only after every new one is
// complete. It returns the directories in the order of nodes.
func Write(out, pair string, nodes []string, force bool) ([]string, error) {
	return WriteServers(out, pair, nodes, nil, force)
}

// WriteServers is Write for nodes and, behind them, for servers, whose certificates say that they are (IsServer).
func WriteServers(out, pair string, others, servers []string, force bool) ([]string, error) {
	nodes := slices.Concat(others, servers)
	if err := checkNames(pair, nodes); err != nil {
		return nil, err
	}
	targets := make([]string, len(nodes))
	for i, node := range nodes {
		targets[i] = filepath.Join(out, node)
		if _, err := os.Lstat(targets[i]); err == nil && !force {
			return nil, fmt.Errorf("%s exists: keys are not overwritten (give --force to replace them, on every node at the same time)", targets[i])
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return nil, fmt.Errorf("create %q: %w", out, err)
	}
	staging, err := os.MkdirTemp(out, ".new-")
	if err != nil {
		return nil, fmt.Errorf("create keys: %w", err)
	}
	defer os.RemoveAll(staging)
	if err := writeAll(staging, pair, nodes, len(others)); err != nil {
		return nil, fmt.Errorf("create keys: %w", err)
	}
	for i, node := range nodes {
		if err := replaceDir(filepath.Join(staging, node), targets[i]); err != nil {
			return nil, fmt.Errorf("put keys of %q in place: %w", node, err)
		}
	}
	return targets, nil
}

// ValidName reports whether a pair or a node can be called so: the name is part of
// file names, of certificates and of the TLS server name.
func ValidName(name string) bool {
	return name != "" && len(name) <= 63 && name[0] != '-' &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func checkNames(pair string, nodes []string) error {
	for _, name := range append([]string{pair}, nodes...) {
		if !ValidName(name) {
			return fmt.Errorf("%q is not a name (1 to 63 lower-case letters, digits and dashes)", name)
		}
	}
	if len(nodes) < 2 {
		return fmt.Errorf("%d node named, want two or more (--members a,b)", len(nodes))
	}
	for i, node := range nodes {
		if slices.Contains(nodes[:i], node) {
			return fmt.Errorf("node %q is named twice", node)
		}
	}
	return nil
}

// writeAll writes all directories; the nodes from servers on are servers.
func writeAll(dir, pair string, nodes []string, servers int) error {
	certs := make([][]byte, len(nodes)) // PEM
	for i, node := range nodes {
		home := filepath.Join(dir, node)
		if err := os.MkdirAll(filepath.Join(home, peersDir), 0o700); err != nil {
			return err
		}
		keyPEM, certPEM, err := newKey(pair, node, i >= servers)
		if err != nil {
			return err
		}
		certs[i] = certPEM
		for name, data := range map[string][]byte{keyFile: keyPEM, certFile: certPEM, pairFile: []byte(pair + "\n")} {
			if err := os.WriteFile(filepath.Join(home, name), data, 0o600); err != nil {
				return err
			}
		}
	}
	for i, node := range nodes {
		for j, peer := range nodes {
			if i == j {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, node, peersDir, peer+certExt), certs[j], 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// Nobody makes an identity that no node trusts, kept in memory only: with it a
// listener can tell a stranger why it is refused.
func Nobody() (*Identity, error) {
	keyPEM, certPEM, err := newKey("", "nobody", false)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	id := &Identity{Node: "nobody"}
	if id.cert, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return id, nil
}

// serverUnit is the organizational unit in a server's certificate.
const serverUnit = "lockstep wrapped server"

// IsServer reports whether a certificate was made for a server.
func IsServer(cert *x509.Certificate) bool {
	return slices.Contains(cert.Subject.OrganizationalUnit, serverUnit)
}

func newKey(pair, node string, server bool) (keyPEM, certPEM []byte, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: node, Organization: []string{"lockstep pair " + pair}},
		// Trust ends by removing the pin, not by a date: RFC 5280, 4.1.2.5, gives
		// this value for "no well-defined expiration". The start is long past so
		// that an appliance with a wrong clock still finds its peer.
		NotBefore:   time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:    time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if server {
		template.Subject.OrganizationalUnit = []string{serverUnit}
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), nil
}

// replaceDir moves the directory from to its place; what was there is moved
// aside first and removed last, so that no moment leaves half a directory.
func replaceDir(from, to string) error {
	old := from + ".old"
	if err := os.Rename(to, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(from, to) // old lies in the staging directory, which is removed
}
