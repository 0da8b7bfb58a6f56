package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lockstep/appliance/control"
	"lockstep/images/volume"
	"lockstep/internal/lab/labtest"
)

// imageDir is where `make image` puts it.
const imageDir = "../../bin/image"

// image is the built one. Without it, or without QEMU, the test says what is missing; in CI it fails.
func image(t *testing.T) Image {
	t.Helper()
	dir, err := filepath.Abs(imageDir)
	if err != nil {
		t.Fatal(err)
	}
	i := Image{Dir: dir}
	if err := i.Check(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("the image is not started:\n%v", err)
	}
	return i
}

// bootLimit is for the slowest machine that is busy with other work: a boot takes 5 to 10 seconds of
// one core's time.
const bootLimit = 4 * time.Minute

// running is a machine that a test has started.
type running struct {
	Config
	t       *testing.T
	client  *control.Client
	done    chan struct{}
	mu      sync.Mutex
	console bytes.Buffer // guarded by mu
}

func (r *running) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.console.Write(b)
}

func (r *running) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.console.String()
}

// start starts a machine that ends with the test.
func start(t *testing.T, c Config) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm-") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c.Dir = dir
	for range 3 {
		c.NICs = append(c.NICs, NIC{MAC: fmt.Sprintf("52:54:00:00:00:0%d", len(c.NICs)+1)})
	}
	if err := c.Prepare(); err != nil {
		t.Fatal(err)
	}
	program, args, err := c.Command()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Config: c, t: t, client: control.NewClient(c.Control()), done: make(chan struct{})}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = r, r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(r.done)
	}()
	t.Cleanup(func() {
		r.client.Close()
		_ = cmd.Process.Kill() // one that has ended is what we want
		<-r.done
		if t.Failed() {
			t.Logf("the console:\n%s", r.said())
		}
	})
	return r
}

// waitFor fails the test when cond does not hold in time, or the machine ends.
func (r *running) waitFor(what string, cond func() bool) {
	r.t.Helper()
	labtest.Eventually(r.t, bootLimit, what, func() bool {
		select {
		case <-r.done:
			r.t.Fatalf("the machine has ended before: %s", what)
		default:
		}
		return cond()
	})
}

func (r *running) waitForWords(words string) {
	r.t.Helper()
	r.waitFor(fmt.Sprintf("the console says %q", words), func() bool { return strings.Contains(r.said(), words) })
}

// waitActive waits until the appliance answers on the control port, and is active.
func (r *running) waitActive() (s control.Status) {
	r.t.Helper()
	r.waitFor("the appliance is active", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var err error
		s, err = r.client.Status(ctx)
		return err == nil && s.Role == control.RoleActive
	})
	return s
}

// switchOff presses the power button and waits until the machine is off.
func (r *running) switchOff() {
	r.t.Helper()
	if err := r.PowerButton(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	select {
	case <-r.done:
	case <-time.After(bootLimit):
		r.t.Fatal("the machine is not off after the power button")
	}
	for _, words := range []string{`why="power button"`, "told to stop", "machine ends"} {
		if !strings.Contains(r.said(), words) {
			r.t.Errorf("the console does not say %q", words)
		}
	}
}

// alone is an appliance without a peer: it becomes active at once.
func alone() volume.Tree {
	return volume.Tree{
		volume.ApplianceFile: []byte(`
node: a
pair: {name: edge, members: {a: "10.30.0.1:7400"}}
networks:
  front: {interface: front}
  back: {interface: back, gateway: [10.20.0.1/24, "fd20::1/64"]}
services:
  - {name: web, listen: ["203.0.113.10:80", "[2001:db8::10]:80"], servers: ["10.20.0.11:80", "[fd20::11]:80"]}
`),
		volume.NetworkFile: []byte(`
version: 2
ethernets:
  front: {match: {macaddress: "52:54:00:00:00:01"}, set-name: front, addresses: [203.0.113.2/24, "2001:db8::2/64"], routes: [{to: default, via: 203.0.113.1}]}
  back: {addresses: [10.20.0.2/24, "fd20::2/64"]}
  sync: {addresses: [10.30.0.1/24]}
`),
		volume.MetaFile: []byte("local-hostname: the-name\n"),
	}
}

func iso(t *testing.T, files volume.Tree) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cidata.iso")
	if err := volume.WriteISO(path, files); err != nil {
		t.Fatal(err)
	}
	return path
}

// A machine without a configuration waits; with a wrong one it says what is wrong and waits; with a
// right one it works. No step needs another start.
func TestBootWaitsForConfiguration(t *testing.T) {
	r := start(t, Config{Image: image(t), Accel: TCG("the test's"), Direct: true})
	r.waitForWords("no configuration yet")
	wrong := alone()
	wrong[volume.ApplianceFile] = bytes.Replace(wrong[volume.ApplianceFile], []byte("services:"), []byte("servces:"), 1)
	if err := r.insert(context.Background(), iso(t, wrong)); err != nil {
		t.Fatal(err)
	}
	r.waitForWords("servces: unknown key")
	if err := r.insert(context.Background(), iso(t, alone())); err != nil {
		t.Fatal(err)
	}
	s := r.waitActive()
	if s.Node != "a" || s.Epoch == 0 || len(s.Services) != 1 || len(s.Services[0].Listen) != 2 {
		t.Errorf("status is %+v", s)
	}
	for _, words := range []string{"watchdog is on", "i6300ESB", "cidata volume on sr0", "name=the-name", "no state partition"} {
		if !strings.Contains(r.said(), words) {
			t.Errorf("the console does not say %q", words)
		}
	}
	for _, words := range []string{"is not loaded", "not as it should be", "could still be loaded", "packets are not refused", "is not dropped where it arrives"} {
		if strings.Contains(r.said(), words) {
			t.Errorf("the console says %q", words)
		}
	}
	shot := filepath.Join(r.Dir, "screen.ppm")
	if err := r.screen(context.Background(), shot); err != nil {
		t.Error(err)
	} else if data, err := os.ReadFile(shot); err != nil || len(bytes.Trim(data[20:], "\x00")) == 0 {
		t.Errorf("nothing is on the screen (%v)", err)
	}
	r.switchOff()
}

// The disk boots with UEFI; configuration through fw_cfg in one file; what a reset leaves is enough
// to come back.
func TestBootFromDisk(t *testing.T) {
	bundle, err := alone().Bundle()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, Config{Image: image(t), Accel: TCG("the test's"), FwCfg: map[string]string{volume.UserFile: path}})
	r.waitActive()
	if !strings.Contains(r.said(), "configuration, network, host name from fw_cfg") || !strings.Contains(r.said(), `state="on vda2"`) {
		t.Error("the console does not say where configuration and state are")
	}
	if err := r.Reset(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.waitFor("the machine has started again", func() bool { return strings.Count(r.said(), "program started") == 2 })
	r.waitActive()
	r.switchOff()
}

func TestCommandNeedsItsFiles(t *testing.T) {
	dir := t.TempDir()
	if err := (Image{Dir: dir}).Check(); err == nil || !strings.Contains(err.Error(), "make image") {
		t.Errorf("an empty directory: %v", err)
	}
	if _, _, err := (Config{Image: Image{Dir: dir}, Direct: true}).Command(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no command line: %v", err)
	}
	c := Config{Image: Image{Dir: dir}, Dir: "/tmp/a,b", Accel: TCG("x"), Volumes: []string{"/v,1"}, NICs: []NIC{{Tap: "t0", MAC: "m"}}, FwCfg: map[string]string{"n": "/f"}}
	_, args, err := c.Command()
	line := strings.Join(args, " ")
	if err != nil || !strings.Contains(line, "file=/v,,1") || !strings.Contains(line, "path=/tmp/a,,b/control.sock") ||
		!strings.Contains(line, "ifname=t0") || !strings.Contains(line, "name=opt/lockstep/n,file=/f") {
		t.Errorf("%s, %v", line, err)
	}
	if a := (Accel{Name: "kvm"}); a.Slow() || a.String() != "KVM" || a.cpu() != "host" {
		t.Errorf("KVM is %v", a)
	}
	if a := TCG("why"); !a.Slow() || !strings.Contains(a.String(), "why") {
		t.Errorf("emulation is %v", a)
	}
}
