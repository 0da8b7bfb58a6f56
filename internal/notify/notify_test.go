package notify

import (
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// manager listens as systemd does.
func manager(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		buf := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		size, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:size])
	}
}

// The manager hears of readiness, of life while the process answers, and of the end.
func TestManagerHears(t *testing.T) {
	hear := manager(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	ask := make(chan string)
	go func() { ask <- "starting" }()
	n := Ready(quiet(), func() string { return <-ask })
	if got := hear(); got != "READY=1\nSTATUS=starting" {
		t.Errorf("%q", got)
	}
	for _, how := range []string{"active", "active, in sync"} {
		ask <- how
		if got := hear(); got != "WATCHDOG=1\nSTATUS="+how {
			t.Errorf("%q", got)
		}
	}
	close(ask) // from now on it answers at once
	n.Close()
	for {
		got := hear()
		if got == "STOPPING=1" {
			break
		}
		if !strings.HasPrefix(got, "WATCHDOG=1") {
			t.Fatalf("%q", got)
		}
	}
}

// Who does not answer is not said to live.
func TestWhoHangsIsNotSaidToLive(t *testing.T) {
	hear := manager(t)
	t.Setenv("WATCHDOG_USEC", "3000")
	asked, hangs := make(chan struct{}, 2), make(chan struct{})
	n := Ready(quiet(), func() string {
		asked <- struct{}{}
		if len(asked) == 2 {
			<-hangs
		}
		return "well"
	})
	if got := hear(); got != "READY=1\nSTATUS=well" {
		t.Errorf("%q", got)
	}
	for len(asked) < 2 { // the second question, which is not answered, has come
		time.Sleep(time.Millisecond)
	}
	closed := make(chan struct{})
	go func() { n.Close(); close(closed) }()
	if got := hear(); got != "STOPPING=1" { // and nothing before it
		t.Errorf("%q", got)
	}
	close(hangs)
	<-closed
}

func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := Ready(quiet(), func() string { return "" })
	n.Close()
}

// The manager's socket may go away just when the process ends: both who asks and who closes find that out.
func TestSocketGone(t *testing.T) {
	hear := manager(t)
	t.Setenv("WATCHDOG_USEC", "3000")
	asked := make(chan struct{}, 1)
	n := Ready(quiet(), func() string {
		select {
		case asked <- struct{}{}:
		default:
		}
		return "well"
	})
	hear()
	<-asked
	if err := os.Remove(os.Getenv("NOTIFY_SOCKET")); err != nil {
		t.Fatal(err)
	}
	<-asked // once more
	n.Close()
}
