package adapter_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

// writer makes random exchanges that are well formed.
type writer struct {
	*rand.Rand
}

func (w writer) text(n int) string {
	const letters = "abcdef \r\n0123456789{}GET HTTP/1.1"
	b := make([]byte, w.IntN(n+1))
	for i := range b {
		b[i] = letters[w.IntN(len(letters))]
	}
	return string(b)
}

// pick returns one of several strings.
func (w writer) pick(of ...string) string { return of[w.IntN(len(of))] }

// body returns a body and the fields that frame it.
func (w writer) body() (fields, body string) {
	text := w.text(40)
	if w.IntN(2) == 0 {
		return fmt.Sprintf("%s: %d\r\n", w.pick("Content-Length", "content-length"), len(text)), text
	}
	var b strings.Builder
	for len(text) > 0 {
		n := 1 + w.IntN(len(text))
		fmt.Fprintf(&b, w.pick("%x%s\r\n", "0%X%s\r\n"), n, w.pick("", ";a=b", ";a=\"b;c\""))
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	b.WriteString("0" + w.pick("", ";last") + "\r\n" + w.pick("", "X-Sum: 1\r\n", "X-Sum: 1\r\nX-Other:\r\n") + "\r\n")
	return "Transfer-Encoding: " + w.pick("chunked", "Chunked") + "\r\n", b.String()
}

func (w writer) fields() string {
	return w.pick("", "A: b\r\n", "X-Empty:\r\n", "Date: now\r\n", "Accept: a, b;q=1\r\nB:\tc \r\n", "Connection: keep-alive\r\n")
}

// exchange returns one request and what answers it.
func (w writer) exchange() (req, resp string) {
	method := w.pick("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "X-OTHER")
	fields, body := "", ""
	if method == "POST" || method == "PUT" {
		fields, body = w.body()
	}
	req = fmt.Sprintf("%s %s HTTP/1.1\r\nHost: a\r\n%s%s%s\r\n%s", method, w.pick("/", "/a?b=c", "/%20"), w.fields(), fields, w.fields(), body)
	for w.IntN(4) == 0 {
		resp += w.pick("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nDate: x\r\n\r\n")
	}
	status := w.pick("200 OK", "200 OK", "204 No Content", "304 Not Modified", "404 Not Found", "206 Partial Content", "500 A b c")
	fields, body = w.body()
	if method == "HEAD" || status[:3] == "304" {
		body = ""
	}
	if status[:3] == "204" {
		fields, body = "", ""
	}
	resp += fmt.Sprintf("HTTP/1.1 %s\r\n%s%s%s\r\n%s", status, w.fields(), fields, w.fields(), body)
	return req, resp
}

// counted is a reader of which one knows how far it was read.
type counted struct {
	*bufio.Reader
	all  int
	rest *bytes.Reader
}

func count(b []byte) *counted {
	r := bytes.NewReader(b)
	return &counted{bufio.NewReader(r), len(b), r}
}

func (c *counted) offset() int { return c.all - c.rest.Len() - c.Buffered() }

// drain reads a body, with its trailers.
func drain(t *testing.T, body io.ReadCloser) {
	t.Helper()
	if _, err := io.Copy(io.Discard, body); err != nil {
		t.Fatal(err)
	}
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
}

// boundaries finds where messages end with the standard library's reader.
func boundaries(t *testing.T, x *exchange) map[int]uint64 {
	t.Helper()
	all := map[int]uint64{0: 0}
	reqs, resps := count(x.req), count(x.resp)
	for resps.offset() < len(x.resp) {
		req, err := http.ReadRequest(reqs.Reader)
		if err != nil {
			t.Fatal(err)
		}
		drain(t, req.Body)
		for interim := true; interim; {
			resp, err := http.ReadResponse(resps.Reader, req)
			if err != nil {
				t.Fatal(err)
			}
			drain(t, resp.Body)
			interim = resp.StatusCode < 200
		}
		all[resps.offset()] = uint64(reqs.offset())
	}
	return all
}

// The standard library reads well-formed exchanges as we do.
func TestAsStandardLibrary(t *testing.T) {
	for seed := range uint64(300) {
		w := writer{rand.New(rand.NewPCG(seed, 1))}
		x := &exchange{}
		for range 1 + w.IntN(6) {
			req, resp := w.exchange()
			x.req, x.resp = append(x.req, req...), append(x.resp, resp...)
		}
		points, masked := trace(t, x)
		got := map[int]uint64{}
		for at, p := range points {
			if p.ok {
				got[at] = p.req
			}
		}
		if want := boundaries(t, x); !maps.Equal(got, want) {
			t.Fatalf("seed %d: checkpoints %v, the standard library says %v\n%q\n%q", seed, got, want, x.req, x.resp)
		}
		follow(t, x, points, masked, w.Rand)
	}
}

// Whether the requests come in turn with their responses or all before makes no difference to
// what is said of the responses.
func TestTurns(t *testing.T) {
	for seed := range uint64(100) {
		w := writer{rand.New(rand.NewPCG(seed, 2))}
		x := &exchange{}
		type turn struct{ req, resp string }
		var turns []turn
		for range 1 + w.IntN(6) {
			req, resp := w.exchange()
			turns = append(turns, turn{req, resp})
			x.req, x.resp = append(x.req, req...), append(x.resp, resp...)
		}
		points, _ := trace(t, x)
		a := newHTTP(t)
		at := 0
		for _, turn := range turns {
			a.Request([]byte(turn.req))
			give(t, a, []byte(turn.resp), at, func(at int) {
				got, want := pointOf(a), points[at]
				got.end, want.end = 0, 0 // pipelined requests are owed a response
				if got != want {
					t.Fatalf("seed %d, offset %d: %+v, with all requests before %+v", seed, at, got, want)
				}
			})
			at += len(turn.resp)
		}
	}
}
