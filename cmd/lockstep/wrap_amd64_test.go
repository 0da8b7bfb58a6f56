package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/wrap/determinant"
)

// Servers and who decides for them get keys of one run, and the servers alone their secret.
func TestKeysOfServers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	status, out, errs := lockstep("keys", "--pair", "edge", "--members", "d", "--servers", "s1,s2", "--out", dir)
	if status != 0 {
		t.Fatalf("exit %d, %s", status, errs)
	}
	expect(t, out, "decides: ", "server: ")
	var secrets [][]byte
	for _, server := range []string{"s1", "s2"} {
		secret, err := readSecret(filepath.Join(dir, server, secretFile))
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, secret)
	}
	if !bytes.Equal(secrets[0], secrets[1]) || bytes.Equal(secrets[0], make([]byte, determinant.SecretSize)) {
		t.Errorf("secrets %x", secrets)
	}
	if _, err := os.Stat(filepath.Join(dir, "d", secretFile)); err == nil {
		t.Error("who decides has the servers' secret")
	}
	if status, _, _ := lockstep("keys", "--pair", "edge", "--members", "d", "--servers", "s1", "--out", dir+"2"); status != exitUsage {
		t.Errorf("one server alone: exit %d", status)
	}
	for _, c := range []struct{ place, identity, says string }{
		{"127.0.0.1:7480", "", "--identity"}, {"/run/socket", dir + "/s1", "is a socket of this machine"}, {"127.0.0.1:7480", dir, "read identity"},
	} {
		o := wrapOptions{identity: c.identity}
		if _, err := o.place(c.place); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s with keys of %q: %v", c.place, c.identity, err)
		}
	}
	o := wrapOptions{identity: filepath.Join(dir, "s1")}
	if at, err := o.place("127.0.0.1:7480"); err != nil || at.Identity.Node != "s1" || !slices.Equal(at.Addresses, []string{"127.0.0.1:7480"}) {
		t.Errorf("%v, %v", at, err)
	}
}
