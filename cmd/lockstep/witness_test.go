package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keysFor makes the keys of a pair and returns the witness's directory.
func keysFor(t *testing.T, dir, pair string) string {
	t.Helper()
	out := filepath.Join(dir, "keys-"+pair)
	status, text, errs := lockstep("keys", "--pair", pair, "--members", "a,b", "--witness", "w", "--out", out)
	if status != 0 {
		t.Fatalf("exit %d: %s", status, errs)
	}
	expect(t, text, "node a:", "node b:", "witness w:", filepath.Join(out, "w"), "/etc/lockstep/witness/"+pair)
	return filepath.Join(out, "w")
}

func TestKeysOfAWitness(t *testing.T) {
	dir := t.TempDir()
	w := keysFor(t, dir, "edge")
	for _, file := range []string{"w/peers/a.crt", "w/peers/b.crt", "a/peers/w.crt", "b/peers/w.crt"} {
		if _, err := os.Stat(filepath.Join(filepath.Dir(w), file)); err != nil {
			t.Error(err)
		}
	}
	for _, args := range [][]string{{"--members", "a", "--witness", "w"}, {"--members", "a,b,c", "--witness", "w"}} {
		if status, _, errs := lockstep(append([]string{"keys", "--pair", "x", "--out", dir + "/x"}, args...)...); status != exitUsage || !strings.Contains(errs, "two appliances") {
			t.Errorf("%v: exit %d, %s", args, status, errs)
		}
	}
	for _, witness := range []string{"a", "", "W"} {
		if status, _, _ := lockstep("keys", "--pair", "x", "--out", dir+"/x", "--members", "a,b", "--witness", witness); status == 0 {
			t.Errorf("a witness called %q was accepted", witness)
		}
	}
	// check sees whether the identity knows the witness.
	t.Setenv("LOCKSTEP_PAIR_WITNESS", "10.30.0.3:7401")
	t.Setenv("LOCKSTEP_PAIR_IDENTITY", filepath.Join(filepath.Dir(w), "a"))
	_, out, _ := lockstep("check", "-c", "../../lockstep.example.yaml")
	expect(t, out, "witness 10.30.0.3:7401", "/var/lib/lockstep")
	if strings.Contains(out, "pair.witness") || strings.Contains(out, "pair.identity") {
		t.Errorf("fresh keys are warned about:\n%s", out)
	}
	if status, _, errs := lockstep("keys", "--pair", "edge", "--members", "a,b", "--out", dir+"/two"); status != 0 {
		t.Fatal(errs)
	}
	t.Setenv("LOCKSTEP_PAIR_IDENTITY", dir+"/two/a")
	_, out, _ = lockstep("check", "-c", "../../lockstep.example.yaml")
	expect(t, out, "pair.witness", "lockstep keys --pair edge --members a,b --witness NAME")
}

func TestWitnessCommand(t *testing.T) {
	dir := t.TempDir()
	edge, core := keysFor(t, dir, "edge"), keysFor(t, dir, "core")
	path := filepath.Join(dir, "witness.yaml")
	port := freePort(t)
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf("listen: 127.0.0.1:%d\nstate: %s/state\nidentities: [%s, %s]\n", port, dir, edge, core))
	status, out, errs := lockstep("witness", "--check", "-c", path)
	if status != 0 || errs != "" {
		t.Fatalf("check: exit %d, %s", status, errs)
	}
	expect(t, out, "is right", "pair edge", "appliances a and b, this is w", "pair core")
	if _, err := os.Stat(dir + "/state"); err == nil {
		t.Error("check has made the state directory")
	}

	// It runs until it is told to stop.
	ended := make(chan string, 1)
	go func() {
		status, _, errs := lockstep("witness", "-c", path)
		ended <- fmt.Sprint(status, errs)
	}()
	reached(t, port)
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := <-ended; !strings.HasPrefix(got, "0") || !strings.Contains(got, "witness started") || !strings.Contains(got, "pairs=2") {
		t.Errorf("ended with %s", got)
	}

	write(fmt.Sprintf("identities: [%s, %s]\nstate: %s/state\n", edge, filepath.Dir(edge)+"/none", dir))
	for _, args := range [][]string{{"witness", "-c", path}, {"witness", "--check", "-c", path}} {
		if status, _, errs := lockstep(args...); status != exitUsage || !strings.Contains(errs, "identities[1]") {
			t.Errorf("%v with a missing identity: exit %d, %s", args, status, errs)
		}
	}
	write("pair: {}\n")
	if status, _, errs := lockstep("witness", "-c", path); status != exitUsage || !strings.Contains(errs, "unknown key") {
		t.Errorf("an appliance's file: exit %d, %s", status, errs)
	}
	write(fmt.Sprintf("listen: 192.0.2.1:7401\nstate: %s/state\nidentities: [%s]\n", dir, edge))
	if status, _, errs := lockstep("witness", "-c", path); status != exitFailed || !strings.Contains(errs, "address of this machine") {
		t.Errorf("a foreign address: exit %d, %s", status, errs)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// reached waits until somebody listens on port.
func reached(t *testing.T, port int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // between polls of a condition with a deadline
	}
}
