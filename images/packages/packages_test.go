package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
)

func TestVersions(t *testing.T) {
	for name, want := range map[string]string{"v0.9.0": "0.9.0", "v0.9.0-12-gabc": "0.9.0+12.gabc", "v0.9.0-devel": "0.9.0+devel", "v0.9.0-abc-dirty": "0.9.0+abc.dirty",
		"v1.0.0-rc.1": "1.0.0~rc.1", "v1.0.0-rc.1-3-gabc": "1.0.0~rc.1+3.gabc", "v1.0.0-recent": "1.0.0+recent"} {
		if got := packageVersion(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestBuildSaysWhatIsMissing(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	if err := run(context.Background(), nil); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Error(err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	if err := run(context.Background(), []string{"-program", t.TempDir() + "/none"}); err == nil || !strings.Contains(err.Error(), "make packages") {
		t.Error(err)
	}
}

// program builds the program so that it calls itself by a version.
func program(t *testing.T, version string) (path string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "lockstep")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X lockstep/appliance/control.described="+version,
		"-o", program, "./cmd/lockstep")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// packages builds a package of each format.
func packages(t *testing.T, program, version, formats string) (deb string) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir("../..")
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	if err := run(context.Background(), []string{"-program", program, "-out", dir, "-version", version, "-formats", formats,
		"-maintainer", "Lockstep maintainers <maintainers@lockstep.example>"}); err != nil {
		t.Fatal(err)
	}
	t.Chdir("images/packages")
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("packages: %v, %v", debs, err)
	}
	for _, format := range strings.Split(formats, ",") {
		if all, err := filepath.Glob(filepath.Join(dir, "*."+format)); err != nil || len(all) != 1 {
			t.Errorf("packages for %s: %v, %v", format, all, err)
		}
	}
	return debs[0]
}

// debian makes a root with nothing in it but what every Debian has, and systemd.
func debian(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	_, suite, _ := strings.Cut(string(release), "VERSION_CODENAME=")
	suite, _, _ = strings.Cut(suite, "\n")
	out, err := exec.Command("mmdebstrap", "--quiet", "--variant=essential", "--include=systemd-sysv",
		"--aptopt=Acquire::Languages \"none\"", suite, root).CombinedOutput()
	if err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	return root
}

// TestPackages is the package's life on two clean machines and README's first evening on them: it is
// installed, which starts nothing; the three commands start a pair; an upgrade by switchover cuts no
// connection, nor does removal; purge leaves nothing.
func TestPackages(t *testing.T) {
	labtest.RequireRoot(t)
	if err := lab.CheckPrograms("mmdebstrap", "lintian", "dpkg", "nsenter", "unshare"); err != nil {
		t.Fatal(err)
	}
	prog := program(t, control.Release)
	old, again := packages(t, prog, control.Release, "deb,rpm"), packages(t, prog, control.Release, "deb")
	for _, file := range []string{filepath.Base(old), "lockstep-appliance-" + runtime.GOARCH + ".oci.tar", "lockstep-witness-" + runtime.GOARCH + ".oci.tar"} {
		if one, two := read(t, filepath.Join(filepath.Dir(old), file)), read(t, filepath.Join(filepath.Dir(again), file)); !bytes.Equal(one, two) {
			t.Errorf("the same program gave two different files %s", file)
		}
	}
	if out, err := exec.Command("lintian", "--allow-root", "--fail-on=error,warning", old).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	const version = control.Release + "-1-gnext"
	next := packages(t, program(t, version), version, "deb")
	root := debian(t)
	p := labtest.Pair(t, lab.PairOptions{Servers: 1})
	keys := t.TempDir()
	makeKeys(t, prog, keys)
	a, b := boot(t, p.A, root), boot(t, p.B, root)
	for _, m := range []*machine{a, b} {
		install(m, old)
		configure(m, keys)
		units(m)
	}
	a.run("systemctl enable --now lockstep 2>&1")
	b.run("systemctl enable --now lockstep 2>&1")
	for _, m := range []*machine{a, b} {
		// Ready means that it can answer. (3: not in sync yet.)
		m.run("lockstep status; test $? = 0 -o $? = 3")
		m.inSync()
		m.confined()
	}
	check := connection(t, p)
	check()
	crash(a, b)
	check()
	crash(b, a)
	check()
	upgrade(a, b, next)
	keepers(a)
	keepers(b)
	check()
	a.run("dpkg --remove lockstep 2>&1") // a is active again: it hands over when it is told to stop
	check()
	if left, _ := a.try("", "systemctl is-active lockstep; ls /usr/bin/lockstep"); !strings.Contains(left, "inactive") || !strings.Contains(left, "No such file") {
		t.Errorf("after removal: %s", left)
	}
	a.run("grep -q 'name: edge' /etc/lockstep/lockstep.yaml && dpkg --purge lockstep 2>&1")
	if left := a.run("find / -xdev -path /proc -prune -o -path /var/log -prune -o -name '*lockstep*' -print"); left != "" {
		t.Errorf("after purge: %s", left)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// makeKeys makes what README's second step and the witness's have.
func makeKeys(t *testing.T, program, dir string) {
	t.Helper()
	for _, args := range [][]string{{"--out", dir + "/pair"}, {"--witness", "w", "--out", dir + "/voted"}} {
		if out, err := exec.Command(program, append([]string{"keys", "--pair", "edge", "--members", "a,b"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("keys: %v\n%s", err, out)
		}
	}
}

// install installs the package and looks at what that has done, and has not.
func install(m *machine, deb string) {
	m.t.Helper()
	m.feed(string(read(m.t, deb)), "cat >/root/old.deb && dpkg --install /root/old.deb 2>&1")
	for _, unit := range []string{"lockstep", "lockstep-witness"} {
		if state, _ := m.try("", "systemctl is-enabled "+unit+"; systemctl is-active "+unit); state != "disabled\ninactive\n" {
			m.t.Errorf("%s of %s after installing: %q", unit, m.name, state)
		}
	}
	if out := m.run("lockstep check 2>&1"); !strings.Contains(out, "lockstep.yaml is right") {
		m.t.Errorf("the example: %s", out)
	}
	m.run("getent passwd lockstep; test -s /usr/share/man/man8/lockstep-run.8.gz -a -s /usr/share/bash-completion/completions/lockstep")
}

// configure does README's steps with the files that README shows.
func configure(m *machine, keys string) {
	m.t.Helper()
	readme := string(read(m.t, "../../README.md"))
	_, text, ok := strings.Cut(readme, "```yaml\n   node: a")
	text, _, end := strings.Cut(text, "```")
	if !ok || !end {
		m.t.Fatal("README has no configuration any more")
	}
	text = strings.ReplaceAll("   node: "+m.name+text, "\n   ", "\n")
	m.feed(strings.TrimPrefix(text, "   "), "cat >/etc/lockstep/lockstep.yaml")
	tar, err := exec.Command("tar", "-C", keys, "--owner=0", "--group=0", "-c", "pair/"+m.name, "voted/w").Output()
	if err != nil {
		m.t.Fatal(err)
	}
	m.feed(string(tar), "cd /root && tar -x && mv pair/"+m.name+" /etc/lockstep/keys && mkdir /etc/lockstep/witness && mv voted/w /etc/lockstep/witness/edge")
	m.run("lockstep check 2>&1")
}

// units looks at both units, and runs the witness's: systemd must have nothing to say of them.
func units(m *machine) {
	m.t.Helper()
	if out := m.run("systemd-analyze verify --man=no /usr/lib/systemd/system/lockstep*.service 2>&1"); out != "" {
		m.t.Errorf("systemd-analyze verify: %s", out)
	}
	// In tenths: below 4.0 is called OK, above 9.0 UNSAFE.
	m.run("systemd-analyze security --no-pager --threshold=35 lockstep 2>&1")
	m.run("systemd-analyze security --no-pager --threshold=20 lockstep-witness 2>&1")
	m.run("systemctl start lockstep-witness 2>&1")
	if state := m.run("systemctl show -p ActiveState -p StatusText lockstep-witness"); !strings.Contains(state, "=active") || !strings.Contains(state, "a vote for 1 pairs") {
		m.t.Errorf("the witness: %s", state)
	}
	m.run("systemctl stop lockstep-witness 2>&1")
	if result := m.run("systemctl show -p Result lockstep-witness"); result != "Result=success\n" {
		m.t.Errorf("the witness has stopped: %s", result)
	}
}

func (m *machine) inSync() {
	m.t.Helper()
	await(m.t, m.name+" in sync", func() bool {
		_, err := m.try("", "lockstep status")
		return err == nil
	})
}

func (m *machine) pid() string { return m.run("systemctl show -p MainPID --value lockstep") }

// confined: the program runs as a user of its own, with two capabilities, behind a filter of system
// calls, and its directories are its own.
func (m *machine) confined() {
	m.t.Helper()
	status := m.run("cat /proc/" + strings.TrimSpace(m.pid()) + "/status")
	for _, want := range []string{"CapPrm:\t0000000000003000", "CapEff:\t0000000000003000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			m.t.Errorf("%s: not %q in\n%s", m.name, want, status)
		}
	}
	if owner := m.run("stat -c %U /etc/lockstep/keys/node.key /run/lockstep /proc/" + strings.TrimSpace(m.pid())); owner != strings.Repeat("lockstep\n", 3) {
		m.t.Errorf("%s: owners %q", m.name, owner)
	}
	if text := m.run("systemctl show -p StatusText -p WatchdogUSec lockstep"); !strings.Contains(text, "epoch") || !strings.Contains(text, "WatchdogUSec=1min") {
		m.t.Errorf("%s: %s", m.name, text)
	}
}

// connection opens one through the pair to a server that says again what it hears. The function that
// it returns uses it.
func connection(t *testing.T, p *lab.PairLab) (check func()) {
	t.Helper()
	ln, err := p.Servers[0].Listen("tcp", "10.20.0.11:80")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	conn, err := p.Client.Dial(context.Background(), &net.Dialer{Timeout: patience}, "tcp", lab.VIP4+":80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close(); conn.Close(); <-served })
	said := 0
	return func() {
		t.Helper()
		said++
		word := fmt.Sprintf("word %d\n", said)
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, word); err != nil {
			t.Fatal(err)
		}
		heard := make([]byte, len(word))
		if _, err := io.ReadFull(conn, heard); err != nil || string(heard) != word {
			t.Fatalf("%q, %v; want %q", heard, err, word)
		}
	}
}

// upgrade puts the next version on both machines: the standby's first, then what was the active's.
func upgrade(a, b *machine, next string) {
	a.t.Helper()
	for _, m := range []*machine{b, a} {
		before := m.pid()
		out := m.feed(string(read(m.t, next)), "cat >/root/next.deb && dpkg --install /root/next.deb 2>&1")
		if !strings.Contains(out, "the former version runs on") || m.pid() != before {
			m.t.Errorf("on %s the package has restarted what was running, or has not said that it has not: %s", m.name, out)
		}
	}
	for _, step := range []struct{ standby, active *machine }{{b, a}, {a, b}} {
		step.standby.run("systemctl restart lockstep")
		a.inSync()
		b.inSync()
		if status := step.standby.run("lockstep status"); !strings.Contains(status, "-1-gnext") {
			a.t.Errorf("%s is not the next version: %s", step.standby.name, status)
		}
		step.active.run("lockstep switchover")
		a.inSync()
		b.inSync()
	}
}

// crash kills the active's process. systemd starts it again, as the standby, and leaves alone the second
// process, which hands on what was under way.
func crash(active, other *machine) {
	before := active.pid()
	active.run("systemctl kill --kill-who=main --signal=KILL lockstep")
	await(active.t, "another process", func() bool { now := active.pid(); return now != before && now != "0\n" })
	active.inSync()
	other.inSync()
}

// keepers: nobody but the appliance ends its second process.
func keepers(m *machine) {
	if log := m.run("journalctl --no-pager -u lockstep"); strings.Contains(log, "lockstep-keeper has ended") {
		m.t.Errorf("on %s the second process was ended, too:\n%s", m.name, log)
	}
}
