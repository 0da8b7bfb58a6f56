package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"lockstep/internal/lab"
)

// redis is Redis' own suite against an external server: those of its tests that do not need to start
// servers themselves, nor an order that TCP does not promise (see inOrder).
func redis() suite {
	return suite{
		name: "redis", says: "Redis' tests (tests/test_helper.tcl, external server)", port: 6379,
		programs: []string{"redis-server:redis-server", "redis-cli:redis-tools", "tclsh:tcl", "dpkg-source:dpkg-dev"},
		prepare:  prepareRedis, fresh: startRedis, play: playRedis,
	}
}

func prepareRedis(ctx context.Context, r *runner, _ string) error {
	_, version, err := debianSource(ctx, r.opts.sources, "redis-server", "redis")
	r.version = version
	return err
}

// startRedis starts a server in the place of the one before: the suite leaves settings behind.
func startRedis(ctx context.Context, r *runner, dir string) error {
	if r.daemon != nil {
		_ = r.daemon.Kill()
		<-r.daemon.Done()
	}
	var err error
	r.daemon, err = r.server().Start(lab.Command{Path: "redis-server", LogFile: filepath.Join(dir, "redis.log"), Dir: dir, Args: []string{
		"--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--enable-debug-command", "yes", "--enable-protected-configs", "yes"}})
	if err != nil {
		return err
	}
	return listening(ctx, r.server(), 6379)
}

// The suite says of each test whether it was right, with its time, or where it is.
var (
	redisLine  = regexp.MustCompile(`(?m)^\[(ok|err|exception|ignore|skip)\]: (.*?)(?: \(\d+ ms\)| in tests/\S+)?\s*$`)
	redisColor = regexp.MustCompile(`\x1b\[[0-9;]*m`)
)

// notExternal are tests that cannot work with a server on another host, though the suite does not
// know: this one has the server take a port that is in use on the client.
const notExternal = "CONFIG SET rollback on apply error"

// inOrder is put into the suite. A test with a client that does not read its answers sends on that
// connection, then at once on another one, and counts on the server's reading them in this order. On
// one host it does; TCP promises nothing of the kind, and with anything that handles connections
// concurrently on the way, a proxy as well as a pair, it does now and then not: then the test waits
// for ever, or is wrong. After a takeover, when one of two segments comes again, it is the rule. Such
// tests are left out, both ways.
const inOrder = `
rename test test_in_any_order
proc test {name code args} {
    if {[regexp {redis_deferring_client|\$rd} $code]} {
        send_data_packet $::test_server_fd skip $name
        return
    }
    uplevel 1 [list test_in_any_order $name $code {*}$args]
}
`

func playRedis(ctx context.Context, r *runner, host *lab.Host, address, dir string) (results, error) {
	src, _, err := debianSource(ctx, r.opts.sources, "redis-server", "redis")
	if err != nil {
		return nil, err
	}
	// The suite wants its programs in src/ and a place to write.
	work := filepath.Join(dir, "redis")
	if err := os.CopyFS(filepath.Join(work, "tests"), os.DirFS(filepath.Join(src, "tests"))); err != nil {
		return nil, err
	}
	if err := addTo(filepath.Join(work, "tests/support/test.tcl"), inOrder); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(work, "src"), 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"redis-server", "redis-cli", "redis-benchmark"} {
		path, err := lab.FindProgram(name)
		if err != nil {
			return nil, err
		}
		if err := os.Symlink(path, filepath.Join(work, "src", name)); err != nil {
			return nil, err
		}
	}
	out, err := program(ctx, host, dir, "test_helper", lab.Command{Path: "tclsh", Dir: work, Args: []string{"tests/test_helper.tcl", "--host", address, "--port", "6379",
		"--clients", "1", "--tags", "-slow -needs:repl -large-memory", "--timeout", "600", "--no-latency", "--durable", "--skiptest", notExternal}})
	if err != nil {
		return nil, err
	}
	got := results{}
	for _, m := range redisLine.FindAllStringSubmatch(redisColor.ReplaceAllString(out, ""), -1) {
		name := m[2]
		if m[1] == "skip" {
			continue // by inOrder or notExternal
		}
		for n := 2; got[name] != ""; n++ { // a name may come more than once
			name = fmt.Sprintf("%s (%d)", m[2], n)
		}
		got[name] = m[1]
	}
	if len(got) < 100 {
		return got, fmt.Errorf("the suite has run %d tests only:\n%s", len(got), tail(out))
	}
	return got, nil
}

// addTo a file.
func addTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// listening waits until something listens on a port of the host.
func listening(ctx context.Context, h *lab.Host, port int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		c, err := h.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return c.Close()
		}
		if lab.Pause(ctx, pollEvery) != nil {
			return fmt.Errorf("nothing listens on port %d of %s: %w", port, h.Name(), err)
		}
	}
}
