package health

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
)

// serverEnv makes this test binary a server.
const serverEnv = "LOCKSTEP_HEALTH_TEST_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverEnv) != "" {
		fmt.Fprintln(os.Stderr, serve())
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// serve runs a server whose listener has a high descriptor: when it is killed, the kernel ends its
// connections first, and its listener last.
func serve() error {
	low, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	file, err := low.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	high, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 200)
	if err != nil {
		return err
	}
	listener, err := net.FileListener(os.NewFile(uintptr(high), "listener"))
	if err != nil {
		return err
	}
	low.Close()
	file.Close()
	fmt.Println(listener.Addr())
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "well")
	}))
}

// child is a server in a process of its own.
type child struct {
	*exec.Cmd
	addr netip.AddrPort
}

func startChild(t *testing.T) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: exec.Command(self)}
	c.Env = append(os.Environ(), serverEnv+"=1")
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read the server's address: %v", err)
	}
	c.addr, err = netip.ParseAddrPort(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func dialLoopback(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr.String())
}

// prober starts a prober of one server that probes when it is asked.
func prober(t *testing.T, addr netip.AddrPort, health config.Health) *Prober {
	t.Helper()
	health.Interval = time.Hour
	p := New(Config{Servers: []netip.AddrPort{addr}, Health: health}, dialLoopback, func(int, bool, string) {})
	p.Start()
	t.Cleanup(p.Stop)
	return p
}

// patient is how long a server that lives may take, however busy the machine is.
const patient = time.Minute

// When a client sees its connection end because the server's process is killed, a
// probe that begins then says that it is dead.
func TestKilledProcess(t *testing.T) {
	for name, health := range map[string]config.Health{
		"tcp":  {Timeout: patient, TCP: true},
		"http": {Timeout: patient, HTTP: "/"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				c := startChild(t)
				p := prober(t, c.addr, health)
				if err := p.Now(t.Context(), 0); err != nil {
					t.Fatalf("a server that lives: %v", err)
				}
				conn, err := dialLoopback(t.Context(), c.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				in := bufio.NewReader(conn)
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				if _, err := in.ReadByte(); err == nil {
					t.Fatal("the killed server says more")
				}
				if err := p.Now(t.Context(), 0); err == nil {
					t.Fatal("a probe says that a killed server lives")
				}
			}
		})
	}
}

func TestStoppedProcess(t *testing.T) {
	c := startChild(t)
	asks := prober(t, c.addr, config.Health{Timeout: patient, HTTP: "/"})
	hasty := prober(t, c.addr, config.Health{Timeout: 200 * time.Millisecond, HTTP: "/"})
	connects := prober(t, c.addr, config.Health{Timeout: patient, TCP: true})
	if err := asks.Now(t.Context(), 0); err != nil {
		t.Fatalf("a server that lives: %v", err)
	}
	if err := c.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer c.Process.Signal(unix.SIGCONT)
	awaitStopped(t, c.Process.Pid)
	if err := hasty.Now(t.Context(), 0); err == nil {
		t.Error("a stopped server answers http")
	}
	// What the package's comment says of tcp.
	if err := connects.Now(t.Context(), 0); err != nil {
		t.Errorf("a stopped server's kernel does not accept: %v", err)
	}
	if err := c.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := asks.Now(t.Context(), 0); err != nil {
		t.Errorf("a server that runs again: %v", err)
	}
}

// awaitStopped waits until the kernel has stopped a child.
func awaitStopped(t *testing.T, pid int) {
	t.Helper()
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || !status.Stopped() {
			t.Fatalf("wait until process %d is stopped: %v, status %v", pid, err, status)
		}
		return
	}
}

func TestHTTPProbe(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		name, says string
		lives      bool
	}{
		{"length", head + "Content-Length: 2\r\n\r\nab", true},
		{"chunks", head + "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", true},
		{"until the end", head + "\r\nab", true},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nab", true},
		{"redirect", "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", true},
		{"not found", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", true},
		{"interim", "HTTP/1.1 103 Early Hints\r\n\r\n" + head + "Content-Length: 0\r\n\r\n", true},
		{"much", head + "\r\n" + strings.Repeat("a", 2*responseMax), true},
		{"much of more", head + fmt.Sprintf("Content-Length: %d\r\n\r\n", 4*responseMax) + strings.Repeat("a", 2*responseMax), true},
		{"failing", "HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n", false},
		{"unavailable", "HTTP/1.1 503 Sorry\r\nContent-Length: 0\r\n\r\n", false},
		{"cut body", head + "Content-Length: 3\r\n\r\nab", false},
		{"cut chunks", head + "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", false},
		{"cut head", head + "Content-Length", false},
		{"nothing", "", false},
		{"something else", "220 hello\r\n", false},
		{"interim without end", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, addr := speak(t, c.says)
			proof := false
			err := probeHTTP(t.Context(), dialLoopback, addr, "/healthz?a", func() { proof = true })
			if (err == nil) != c.lives || !proof {
				t.Errorf("%v, want that it lives: %v", err, c.lives)
			}
			if got, want := <-request, fmt.Sprintf("GET /healthz?a HTTP/1.1\r\nHost: %v\r\n", addr); !strings.HasPrefix(got, want) {
				t.Errorf("asked %q, want %q", got, want)
			}
		})
	}
}

// speak serves one connection: it reads a request, which it passes on, says something and
// hangs up.
func speak(t *testing.T, says string) (request <-chan string, addr netip.AddrPort) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	done := make(chan struct{})
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var all strings.Builder
		for in := bufio.NewReader(conn); !strings.HasSuffix(all.String(), "\r\n\r\n"); {
			line, err := in.ReadString('\n')
			all.WriteString(line)
			if err != nil {
				break
			}
		}
		got <- all.String()
		io.WriteString(conn, says)
	}()
	return got, netip.MustParseAddrPort(listener.Addr().String())
}
