package control

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixed Status

func (f fixed) Status() Status { return Status(f) }

func (f fixed) FindConnections(ConnectionQuery) ConnectionList { return ConnectionList{} }

func (f fixed) Switchover(context.Context) error {
	if f.InSync {
		return nil
	}
	return errors.New("not in sync")
}

func (f fixed) Reload(dry bool) (Reloaded, error) {
	if !dry {
		return Reloaded{}, errors.New("misspelt")
	}
	return Reloaded{Refused: true, Changes: []Change{{Key: "node", From: "a", To: "b", Refused: "no"}}}, nil
}

// asking is a client of a socket that p answers at.
func asking(t *testing.T, p Provider) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	s, err := Serve(path, p, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c := NewClient(path)
	t.Cleanup(c.Close)
	return c
}

func TestReloadOverTheSocket(t *testing.T) {
	c := asking(t, fixed{})
	want, _ := fixed{}.Reload(true)
	if got, err := c.Reload(context.Background(), true); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.Reload(context.Background(), false); err == nil || !strings.Contains(err.Error(), "nothing is changed: misspelt") {
		t.Errorf("refused: %v", err)
	}
}

func (f fixed) Server(_ context.Context, cmd ServerCommand) (ServerOrdered, error) {
	if cmd != (ServerCommand{Do: "weight", Service: "web", Server: netip.MustParseAddrPort("10.0.0.1:80"), Weight: 3}) {
		return ServerOrdered{}, errors.New("no such server")
	}
	return ServerOrdered{Unkept: "full"}, nil
}

func TestServerOverTheSocket(t *testing.T) {
	c := asking(t, fixed{})
	cmd := ServerCommand{Do: "weight", Service: "web", Server: netip.MustParseAddrPort("10.0.0.1:80"), Weight: 3}
	if done, err := c.Server(context.Background(), cmd); err != nil || done != (ServerOrdered{Unkept: "full"}) {
		t.Errorf("%+v, %v", done, err)
	}
	cmd.Force = true
	if _, err := c.Server(context.Background(), cmd); err == nil || err.Error() != "no such server" {
		t.Errorf("refused: %v", err)
	}
	resp, err := c.http.Post("http://control/v1/server", "application/json", strings.NewReader("{"))
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("garbage: %v, %v", resp, err)
	}
	resp.Body.Close()
}

func TestSwitchoverOverTheSocket(t *testing.T) {
	for _, can := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "control.sock")
		s, err := Serve(path, fixed{InSync: can}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		c := NewClient(path)
		err = c.Switchover(context.Background())
		if can != (err == nil) || err != nil && !strings.Contains(err.Error(), "not in sync") {
			t.Errorf("able %v: %v", can, err)
		}
		c.Close()
		s.Close()
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestStatusOverTheSocket(t *testing.T) {
	want := Status{
		Version: "v1", Node: "a", Pair: "edge", Role: RoleActive, Epoch: 3, Since: time.Unix(1000, 0).UTC(),
		Peer: Peer{Name: "b", Why: "wrong_key"}, WhyNotInSync: "no standby",
		Lag: Lag{Bytes: 1, Batches: 2, Micros: 3}, RTTMicros: 4,
		Connections: Connections{Open: 5, Protected: 1, Unprotected: 4}, Takeovers: 1,
		LastTakeover: &Takeover{At: time.Unix(900, 0).UTC(), DurationMicros: 700, Legs: 10, Connections: 5},
		Drops:        map[string]uint64{"syn_flood": 7},
		Services:     []Service{{Name: "web", Listen: []string{"203.0.113.10:80"}, Protection: "gateway", Connections: 5, Servers: []Backend{{Addr: "10.0.0.1:80", Healthy: true}}}},
		Memory:       Memory{BufferedBytes: 9, Limit: 10},
	}
	path := filepath.Join(t.TempDir(), "new", "control.sock")
	s, err := Serve(path, fixed(want), quiet())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket's mode: %v, %v", info.Mode(), err)
	}
	c := NewClient(path)
	defer c.Close()
	got, err := c.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Serve(path, fixed(want), quiet()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second appliance on the same socket: %v", err)
	}
	resp, err := c.http.Get("http://control/v1/nothing")
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown path: %v, %v", resp, err)
	}
	resp.Body.Close()
	s.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket stays behind: %v", err)
	}
	if _, err := c.Status(context.Background()); err == nil || !strings.Contains(err.Error(), "is the appliance running") {
		t.Errorf("without a server: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	c := NewClient(path)
	if _, err := c.Status(context.Background()); err == nil || !strings.Contains(err.Error(), "has died") {
		t.Errorf("a dead appliance's socket: %v", err)
	}
	s, err := Serve(path, fixed{}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestAFileIsNotRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Serve(path, fixed{}, quiet()); err == nil {
		t.Fatal("served on a plain file's path")
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Type()&fs.ModeSocket != 0 {
		t.Errorf("the file is gone: %v", err)
	}
}
