package metrics

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/appliance/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixed control.Status

func (f fixed) Status() control.Status { return control.Status(f) }

func (f fixed) FindConnections(control.ConnectionQuery) control.ConnectionList {
	return control.ConnectionList{}
}

func (f fixed) Switchover(context.Context) error { return nil }

func (f fixed) Reload(bool) (control.Reloaded, error) { return control.Reloaded{}, nil }

func (f fixed) Server(context.Context, control.ServerCommand) (control.ServerOrdered, error) {
	return control.ServerOrdered{}, nil
}

func TestScrape(t *testing.T) {
	status := fixed{
		Version: "v1", Node: "a", Pair: "edge", Role: control.RoleStandby, Epoch: 4, InSync: true, Since: time.Unix(5, 0),
		Peer:         control.Peer{Name: "b", Connected: true},
		Lag:          control.Lag{Bytes: 1500, Batches: 2, Micros: 250},
		Connections:  control.Connections{Open: 3, Protected: 2, Unprotected: 1},
		Takeovers:    1,
		Fitness:      control.Fitness{PeerKnown: true, PeerFaults: []string{"eth0 has no carrier"}, Repairs: map[string]uint64{"rule": 3}},
		LastTakeover: &control.Takeover{At: time.Unix(100, 0), DurationMicros: 1500, Legs: 6},
		Drops:        map[string]uint64{"checksum": 7, "bad\xff": 1},
		Services:     []control.Service{{Name: "web", Connections: 3, Servers: []control.Backend{{Addr: "10.0.0.1:80", Healthy: true}, {Addr: "10.0.0.2:80"}}, Kept: &control.Kept{InStep: 4, Failovers: 2}}},
		Memory:       control.Memory{BufferedBytes: 64, Limit: 1 << 30},
	}
	s, err := Serve(netip.MustParseAddrPort("127.0.0.1:0"), status, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	for range 2 { // two scrapes give the same: nothing is counted here
		resp, err := client.Get("http://" + s.addr().String() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status, err)
		}
		for _, line := range []string{
			`lockstep_info{node="a",pair="edge",version="v1"} 1`,
			`lockstep_role{role="standby"} 1`,
			`lockstep_role{role="active"} 0`,
			`lockstep_epoch 4`,
			`lockstep_in_sync 1`,
			`lockstep_peer_connected{peer="b"} 1`,
			`lockstep_lag_bytes 1500`,
			`lockstep_lag_seconds 0.00025`,
			`lockstep_connections{state="unprotected"} 1`,
			`lockstep_takeovers_total 1`,
			`lockstep_last_takeover_duration_seconds 0.0015`,
			`lockstep_drops_total{reason="checksum"} 7`,
			`lockstep_drops_total{reason="bad?"} 1`,
			`lockstep_server_healthy{server="10.0.0.2:80",service="web"} 0`,
			`lockstep_memory_limit_bytes 1.073741824e+09`,
			`lockstep_fit{who="here"} 1`,
			`lockstep_fit{who="peer"} 0`,
			`lockstep_repairs_total{kind="rule"} 3`,
			`lockstep_kept{service="web",what="in_step"} 4`,
			`lockstep_kept_events_total{event="failover",service="web"} 2`,
		} {
			if !strings.Contains(string(body), line+"\n") {
				t.Errorf("missing: %s", line)
			}
		}
		if !strings.Contains(string(body), "go_goroutines ") {
			t.Error("the Go runtime's metrics are missing")
		}
	}
}

// A page whose name points here gets nothing; who asks by address, or by this machine's
// name, does.
func TestHost(t *testing.T) {
	s, err := Serve(netip.MustParseAddrPort("127.0.0.1:0"), fixed{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		"": http.StatusOK, "localhost:9464": http.StatusOK, "LOCALHOST": http.StatusOK, "10.1.2.3": http.StatusOK, "[::1]:9464": http.StatusOK,
		own + ":9464": http.StatusOK, own + ".": http.StatusOK,
		"rebind.example": http.StatusForbidden, "127.0.0.1.example:9464": http.StatusForbidden, "localhost.example": http.StatusForbidden,
	} {
		req, err := http.NewRequest(http.MethodGet, "http://"+s.addr().String()+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("Host %q: %s", host, resp.Status)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	s, err := Serve(netip.MustParseAddrPort("127.0.0.1:0"), fixed{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Serve(netip.MustParseAddrPort(s.addr().String()), fixed{}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "change `metrics`") {
		t.Errorf("got %v", err)
	}
}
