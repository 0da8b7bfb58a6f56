package demo

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/internal/lab/labtest"
)

// nginx is killed, with all its processes, while curl downloads from it through real appliances.
func TestDemoOfNginx(t *testing.T) {
	labtest.RequirePrograms(t, "nginx:nginx-light", "curl:curl")
	t.Setenv(envReal, "1")
	v, log, err := play(t, context.Background(), options{service: "web", fault: faultServerKill, protection: "hot", direction: dirDownload, size: 96 << 20, rounds: 1})
	if err != nil || !v.OK || !v.Intact || v.Connections != 1 || v.ConnectionsLost != 0 || v.Bytes != 96<<20 {
		t.Fatalf("%v: %+v\n%s", err, v, log)
	}
	if v.ClientStatus == nil || *v.ClientStatus != 0 || v.Client != "curl" || v.Service != "web" || v.Protection != "hot" || v.Resumed != 0 ||
		v.ServerBefore != v.Failures[0].Failed || v.ServerAfter == "" || v.ServerAfter == v.Failures[0].Failed || v.ServersLost == 0 || v.Failovers == 0 || v.Divergences != 0 || v.LongestGapMS <= 0 {
		t.Errorf("%+v", v)
	}
	for _, want := range []string{"nginx on s1 and s2", "server " + v.Failures[0].Failed + " is dead", "server " + v.ServerAfter + " goes on"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
}

// The fake appliance is a plain proxy that dies with its connections: curl fails, and the demo says so.
func TestDemoTellsThatTheClientFailed(t *testing.T) {
	labtest.RequirePrograms(t, "nginx:nginx-light", "curl:curl")
	v, log, err := play(t, context.Background(), options{service: "web", fault: faultServerKill, protection: "log", direction: dirDownload, size: 96 << 20, rounds: 1})
	if err == nil || v.OK || v.Intact || v.ConnectionsLost != 1 {
		t.Errorf("%v: %+v\n%s", err, v, log)
	}
}

func TestServiceNeedsItsPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for name, pkg := range map[string]string{"web": "curl", "file": "rsync", "stream": "curl"} {
		kind := options{service: name}.real()
		dir := t.TempDir()
		server, err := kind.configure(dir, "s1")
		if err != nil {
			t.Fatal(err)
		}
		if err := kind.ready(server); err == nil || !strings.Contains(err.Error(), "apt-get install") || !strings.Contains(err.Error(), pkg) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServiceFlags(t *testing.T) {
	for line, why := range map[string]string{
		"--service mail":                      "none of web, file, stream",
		"--service web --fault server-freeze": "none of server-kill, kill",
		"--service web --rounds 2":            "there is one",
		"--service web --direction both":      "it is download",
		"--service web --connections 3":       "the client's only",
		"--service web --protection gateway":  "ends with its server",
		"--service file --protection hot":     "only gateway works",
		"--service web --vm x":                "not with --vm",
	} {
		cmd := Command()
		cmd.SetArgs(strings.Fields(line))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want: %s", line, err, why)
		}
	}
}

// What is not asked for follows from the service, and the appliances accept it.
func TestServiceConfigurationIsValid(t *testing.T) {
	for _, s := range services {
		for _, fault := range []string{faultServerKill, faultKill} {
			o := options{service: s.name, fault: fault, direction: dirBoth, size: 1 << 30, idle: 100, rounds: 1}
			o.settle(func(flag string) bool { return flag == "fault" })
			if err := o.check(); err != nil || o.size != s.size || o.fault != fault || o.idle != 0 || o.protection != s.protections[0] {
				t.Errorf("%s: %+v, %v", s.name, o, err)
			}
			cfg := o.configured(t)
			if got := cfg.Services[0]; string(got.Protection) != o.protection || len(got.Servers) != 2 || int(got.Listen[0].Port()) != s.port {
				t.Errorf("%s: %+v", s.name, got)
			}
		}
	}
}

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	long := strings.Repeat("0123456789", 100000)
	whole := file("whole", long)
	if n, err := compare(whole, file("same", long)); n != int64(len(long)) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for name, text := range map[string]string{"shorter": long[1:], "longer": long + "x", "empty": "", "other": long[:700000] + "x" + long[700001:]} {
		if _, err := compare(whole, file(name, text)); err == nil {
			t.Errorf("%s is taken for the same", name)
		}
	}
}
