//go:build amd64

package wrap

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lockstep/internal/realservers"
)

// sambas makes two servers' folders, with a user root of one password, and returns the command that runs one.
func sambas(t *testing.T, encrypt string, content []byte) func(i int, host string) []string {
	t.Helper()
	write := func(dir, host string) realservers.Server {
		t.Helper()
		share := filepath.Join(dir, "share")
		if err := os.MkdirAll(share, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(share, "file"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		// Asynchronous reads are answered in between with STATUS_PENDING, up to timing: two servers would differ.
		server, err := realservers.Samba(share, dir, "smb ports = 7806", "interfaces = "+host, "bind interfaces only = yes",
			"map to guest = never", "aio read size = 0", "aio write size = 0", "server signing = mandatory", "smb encrypt = "+encrypt)
		if err != nil {
			t.Fatal(err)
		}
		return server
	}
	first := t.TempDir()
	write(first, "127.0.3.11")
	add := exec.Command("smbpasswd", "-c", filepath.Join(first, "smb.conf"), "-s", "-a", "root")
	add.Stdin = strings.NewReader("password\npassword\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("adding a user: %v: %s", err, out)
	}
	return func(_ int, host string) []string {
		dir := t.TempDir()
		for _, name := range []string{"passdb.tdb", "secrets.tdb"} {
			text, err := os.ReadFile(filepath.Join(first, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		server := write(dir, host)
		return append([]string{server.Program}, server.Args...)
	}
}

// envRounds is how many pairs of servers are started for each kind, if not one.
const envRounds = "LOCKSTEP_WRAP_ROUNDS"

// Samba forks a process for each connection. Two servers with shares of their own: a user's login by NTLM, signed or encrypted.
func TestTwinsSamba(t *testing.T) {
	needRoot(t)
	rounds, _ := strconv.Atoi(os.Getenv(envRounds)) // not set: one
	content := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content) // it never fails
	for round := range max(rounds, 1) {
		for _, encrypt := range []string{"off", "required"} {
			t.Run(fmt.Sprintf("encrypt=%s/%d", encrypt, round), func(t *testing.T) { sambaTwins(t, encrypt, content) })
		}
	}
}

func sambaTwins(t *testing.T, encrypt string, content []byte) {
	x := newTee(t, twins(t, true, 7806, sambas(t, encrypt, content)))
	host, port, err := net.SplitHostPort(x.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(t.TempDir(), "mine")
	conf := filepath.Join(t.TempDir(), "client.conf") // this machine's own is nobody's affair
	if err := os.WriteFile(conf, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		out := tool(t, "smbclient", "-s", conf, "-U", "root%password", "-p", port, "//"+host+"/files", "-c",
			"ls; get file "+mine+"; put "+mine+" copy; mkdir d; rename copy d\\copy; ls d\\*; rm d\\copy; rmdir d")
		if got, err := os.ReadFile(mine); err != nil || !bytes.Equal(got, content) || !strings.Contains(out, "copy") {
			t.Errorf("%d bytes of %d, %v: %s", len(got), len(content), err, out)
		}
	}
	if sent, differ := x.compare(); differ != 0 || sent < 2*len(content) {
		t.Errorf("%d of %d bytes differ", differ, sent)
	}
}
