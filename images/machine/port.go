package machine

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lockstep/appliance/config"
)

// portName is the virtio serial port on which a hypervisor's host reaches the control socket.
const portName = "org.lockstep.control.0"

const (
	// portPause is how often an idle port is looked at.
	portPause   = 100 * time.Millisecond
	maxQuestion = 16 << 10 // bytes of a request
	maxAnswer   = 8 << 20  // bytes of an answer's body, as the control socket's own client has it
	// askTimeout is longer than anything the program waits for.
	askTimeout = 20 * time.Second
)

// servePort answers on the port what the program's control socket answers, so that `lockstep status
// --control SOCKET` works on the hypervisor's host. Whoever may open the port there could switch the
// machine off as well.
func (m *machine) servePort() {
	var path string
	for path = findPort(); path == ""; path = findPort() {
		m.sleep(retryEvery)
		if m.ending.Err() != nil {
			return
		}
	}
	port, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		m.log.Error("control port is not served", "err", err)
		return
	}
	defer port.Close()
	m.log.Info("control port is served", "port", portName)
	var d net.Dialer
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", config.DefaultControl)
	}}
	answerAll(questions(patientReader{port}), port, transport)
}

// patientReader waits where a port without a client at the other end reads as the end of a file.
type patientReader struct{ r io.Reader }

func (p patientReader) Read(b []byte) (int, error) {
	for {
		if n, _ := p.r.Read(b); n > 0 {
			return n, nil
		}
		time.Sleep(portPause)
	}
}

// questions reads HTTP requests. What is none, such as the rest of one whose client left in the
// middle, is thrown away. The channel is closed when r ends, which a port does not.
func questions(r io.Reader) <-chan *http.Request {
	out := make(chan *http.Request, 16)
	go func() {
		defer close(out)
		for b := bufio.NewReaderSize(r, maxQuestion); ; {
			if _, err := b.Peek(1); err != nil {
				return
			}
			req, err := http.ReadRequest(bufio.NewReader(&oneQuestion{b: b}))
			if err != nil {
				_, _ = b.Discard(b.Buffered())
				continue
			}
			out <- req
		}
	}()
	return out
}

// oneQuestion reads a request's header and nothing behind it: byte by byte until the empty line.
// The control socket's requests have no bodies.
type oneQuestion struct {
	b    *bufio.Reader
	n    int
	tail [4]byte
}

func (q *oneQuestion) Read(into []byte) (int, error) {
	if string(q.tail[:]) == "\r\n\r\n" || q.n > maxQuestion || len(into) == 0 {
		return 0, io.EOF
	}
	c, err := q.b.ReadByte()
	if err != nil {
		return 0, err
	}
	q.n++
	copy(q.tail[:], q.tail[1:])
	q.tail[3], into[0] = c, c
	return 1, nil
}

// answerAll answers the newest question. A port does not tell that one client has left and another
// has come; but no client asks again before it was answered, so an older question is that of one who
// has left, and its answer would be taken for the next one's.
func answerAll(questions <-chan *http.Request, out io.Writer, to http.RoundTripper) {
	var next *http.Request
	for {
		req := next
		next = nil
		if req == nil {
			var ok bool
			if req, ok = <-questions; !ok {
				return
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		answered := make(chan []byte, 1)
		go func() { answered <- answer(ctx, req, to) }()
		select {
		case newer, ok := <-questions:
			cancel()
			<-answered
			if !ok {
				return
			}
			next = newer
		case text := <-answered:
			cancel()
			_, _ = out.Write(text) // a client that is gone needs none
		}
	}
}

// answer asks the control socket, and answers for it when it is not there.
func answer(ctx context.Context, req *http.Request, to http.RoundTripper) []byte {
	req = req.WithContext(ctx)
	req.URL.Scheme, req.URL.Host, req.RequestURI = "http", "control", ""
	status, body := http.StatusServiceUnavailable, []byte("the appliance is not running\n")
	header := http.Header{}
	if resp, err := to.RoundTrip(req); err == nil {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		resp.Body.Close()
		if err == nil {
			status, header, body = resp.StatusCode, resp.Header, text
		}
	}
	resp := http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: header, Request: req, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body))}
	var text bytes.Buffer
	_ = resp.Write(&text) // a buffer takes everything
	return text.Bytes()
}

// findPort finds the device of the named port; empty: the machine has none.
func findPort() string {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, n := range names {
		if data, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(data)) == portName {
			return "/dev/" + filepath.Base(filepath.Dir(n))
		}
	}
	return ""
}
