package adapter_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"lockstep/appliance/adapter"
)

// dialogue is an exchange in which the order of the two streams matters.
type dialogue struct {
	t                 *testing.T
	a                 *adapter.HTTP
	requests, replies int
}

func talk(t *testing.T) *dialogue { return &dialogue{t: t, a: newHTTP(t)} }

func crlf(text string) []byte { return []byte(strings.ReplaceAll(text, "\n", "\r\n")) }

func (d *dialogue) request(text string) {
	b := crlf(text)
	d.requests += len(b)
	d.a.Request(b)
}

// reply gives a response, and then says that the client has it.
func (d *dialogue) reply(text string) {
	d.t.Helper()
	b := crlf(text)
	give(d.t, d.a, b, d.replies, func(int) {})
	d.replies += len(b)
}

// checkpoint demands that there is one after all requests so far, or none.
func (d *dialogue) checkpoint(want bool) {
	d.t.Helper()
	if req, ok := d.a.Checkpoint(); ok != want || ok && req != uint64(d.requests) {
		d.t.Fatalf("checkpoint %d %v, want %d %v", req, ok, d.requests, want)
	}
}

func (d *dialogue) end(want adapter.Verdict) {
	d.t.Helper()
	if got := d.a.End(); got != want {
		d.t.Fatalf("a FIN now is %v, want %v", got, want)
	}
}

func TestContinue(t *testing.T) {
	d := talk(t)
	d.checkpoint(true)
	d.request("PUT / HTTP/1.1\nExpect: 100-continue\nContent-Length: 4\n\n")
	d.end(adapter.Premature)
	d.reply("HTTP/1.1 100 Continue\n\n")
	d.checkpoint(false)
	d.end(adapter.Premature)
	d.request("abcd")
	d.checkpoint(false)
	d.reply("HTTP/1.1 201 Created\nContent-Length: 0\n\n")
	d.checkpoint(true)
	d.end(adapter.Complete)
}

func TestEarlyAnswer(t *testing.T) {
	d := talk(t)
	d.request("PUT / HTTP/1.1\nContent-Length: 4\n\nab")
	d.reply("HTTP/1.1 403 No\nContent-Length: 0\n\n")
	d.checkpoint(false) // the rest of the body would look like a request
	d.end(adapter.Complete)
	// The state must say that this request is answered.
	state := d.a.State(nil)
	d.a = newHTTP(t)
	if err := d.a.Restore(state, 0); err != nil {
		t.Fatal(err)
	}
	d.checkpoint(false)
	d.a.Request(crlf("PUT / HTTP/1.1\nContent-Length: 4\n\nab"))
	d.checkpoint(false)
	d.end(adapter.Complete)
	d.request("cd")
	d.checkpoint(true)
	d.request("GET / HTTP/1.1\n\n")
	d.end(adapter.Premature)
	d.reply("HTTP/1.1 200 OK\nContent-Length: 1\n\na")
	d.checkpoint(true)
}

// A response to part of a request cannot be had again from the request stream.
func TestAnswerToNothing(t *testing.T) {
	d := talk(t)
	d.request("GET / HTT")
	d.reply("HTTP/1.1 408 Timeout\nConnection: close\nContent-Length: 1\n\n")
	d.end(adapter.Unknown)
	d.reply("a")
	d.checkpoint(false)
	d.end(adapter.Complete)
	d.request("P/1.1\n\n") // comes too late
	d.checkpoint(false)
	d.end(adapter.Complete)
	d.reply("HTTP/1.1 200 OK\n")
	d.end(adapter.Unknown)
}

// Further requests do not take a checkpoint away; their responses do.
func TestCheckpointStays(t *testing.T) {
	d := talk(t)
	d.request(get)
	d.reply("HTTP/1.1 200 OK\nContent-Length: 1\n\na")
	at := uint64(d.requests)
	for _, text := range []string{"G", "ET / HTTP/1.1\n\n", "PUT / HTTP/1.1\nContent-Length: 3\n\n", "ab", "\x00"} {
		d.request(text)
		if req, ok := d.a.Checkpoint(); !ok || req != at {
			t.Fatalf("after %q: checkpoint %d %v, want %d", text, req, ok, at)
		}
	}
	d.reply("H")
	d.checkpoint(false)
}

// After 101 the client's bytes are not read as requests.
func TestUpgrade(t *testing.T) {
	d := talk(t)
	d.request("GET / HTTP/1.1\nUpgrade: x\n\n")
	d.reply("HTTP/1.1 101 Switching Protocols\n\n")
	d.request(get)
	d.reply("HTTP/1.1 200 OK\nContent-Length: 1\n\na")
	d.checkpoint(false)
	d.end(adapter.Unknown)
	if spans := d.a.Mask(nil, crlf("HTTP/1.1 200 OK\nDate: x\n\n")); spans != nil {
		t.Fatalf("masked after an upgrade: %v", spans)
	}
}

func TestLimits(t *testing.T) {
	field := "X: " + strings.Repeat("a", 1000) + "\n"
	t.Run("response head", func(t *testing.T) {
		d := talk(t)
		d.request(get)
		b := crlf("HTTP/1.1 200 OK\n" + strings.Repeat(field, 100))
		if n := d.a.Releasable(b[:adapter.MaxHead], false); n != 0 {
			t.Fatalf("%d bytes of a head are released at the limit", n)
		}
		if n := d.a.Releasable(b[:adapter.MaxHead+1], false); n != adapter.MaxHead+1 {
			t.Fatalf("%d bytes of a head beyond the limit are released", n)
		}
		d.reply("HTTP/1.1 200 OK\n" + strings.Repeat(field, 100))
		d.end(adapter.Unknown)
	})
	t.Run("request head", func(t *testing.T) {
		d := talk(t)
		d.request("GET / HTTP/1.1\n" + strings.Repeat(field, 100) + "\n")
		d.end(adapter.Unknown)
	})
	t.Run("request target", func(t *testing.T) {
		d := talk(t)
		d.request("GET /" + strings.Repeat("a", adapter.MaxHead) + " HTTP/1.1\n\n")
		d.end(adapter.Unknown)
	})
	t.Run("empty lines", func(t *testing.T) {
		d := talk(t)
		d.request(strings.Repeat("\n", adapter.MaxHead/2+1) + get)
		d.end(adapter.Unknown)
	})
	t.Run("pipeline", func(t *testing.T) {
		d := talk(t)
		const limit = 1024
		d.request(strings.Repeat(get, limit))
		at := d.requests
		d.request(get)
		for i := range limit {
			d.end(adapter.Premature)
			d.reply(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Length: %d\n\n%s", i, strings.Repeat("a", i)))
		}
		if req, ok := d.a.Checkpoint(); !ok || req != uint64(at) {
			t.Fatalf("checkpoint %d %v, want %d", req, ok, at)
		}
		d.end(adapter.Unknown)
		d.reply("HTTP/1.1 200 OK\n")
		d.checkpoint(false)
	})
	t.Run("long pipeline in turns", func(t *testing.T) {
		d := talk(t)
		d.request(strings.Repeat(get, 1000))
		for range 5000 {
			d.request(get)
			d.reply("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
		}
		for range 1000 {
			d.reply("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
		}
		d.checkpoint(true)
	})
}

// The longest state: within a header field's name, far into the connection.
func TestStateIsSmall(t *testing.T) {
	d := talk(t)
	d.request(fmt.Sprintf("PUT / HTTP/1.1\nContent-Length: %d\n\n", uint64(1)<<62))
	d.reply(fmt.Sprintf("HTTP/1.1 999 X\n%sContent-Length: %d\n%s", strings.Repeat("A: "+strings.Repeat("a", 500)+"\n", 120),
		uint64(1)<<63-1, strings.Repeat("a", adapter.MaxName)))
	state := d.a.State(nil)
	// The offset of the requests is 0 here and takes one byte; the largest takes nine.
	if n := len(state) + 8; n > adapter.MaxState || n < adapter.MaxState-8 {
		t.Fatalf("the longest state has %d bytes, want a little less than %d", n, adapter.MaxState)
	}
	if err := newHTTP(t).Restore(state, 0); err != nil {
		t.Fatal(err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	d := talk(t)
	d.request(get + get)
	d.reply("HTTP/1.1 200 OK\nContent-Length: 1\n\naHTTP/1.1 200 OK\nDate: x")
	state := d.a.State(nil)
	refused := func(what string, state []byte, at uint64) {
		t.Helper()
		a := newHTTP(t)
		if err := a.Restore(state, at); !errors.Is(err, adapter.ErrState) {
			t.Errorf("%s: %v, want ErrState", what, err)
		}
		if p := pointOf(a); p != pointOf(newHTTP(t)) {
			t.Errorf("%s: afterwards %+v, want a new adapter", what, p)
		}
	}
	refused("nothing", nil, 0)
	for n := range state {
		refused(fmt.Sprintf("%d bytes", n), state[:n], 0)
	}
	refused("more", append(state[:len(state):len(state)], 0), 0)
	refused("another version", append([]byte{2}, state[1:]...), 0)
	refused("requests that are gone", state, uint64(len(crlf(get)))+1)
	refused("an empty body", []byte{1, 0, 0, 6, 0, 0, 0, 0}, 0)
	refused("a number in a longer form", []byte{1, 0, 0x80, 0, 0, 0, 0, 0, 0}, 0)
	if err := (adapter.Raw{}).Restore(state, 0); !errors.Is(err, adapter.ErrState) {
		t.Errorf("raw: %v, want ErrState", err)
	}
	if err := (adapter.Raw{}).Restore((adapter.Raw{}).State(nil), 7); err != nil {
		t.Errorf("raw: %v", err)
	}
}

func TestRaw(t *testing.T) {
	var a adapter.Adapter = adapter.Raw{}
	b := crlf("HTTP/1.1 200 OK\nDate: x\n\n")
	a.Request(crlf(get))
	a.RequestEnd()
	if n := a.Releasable(b, false); n != len(b) {
		t.Errorf("%d of %d bytes are released", n, len(b))
	}
	if n := a.Response(b); n != len(b) {
		t.Errorf("a piece of %d of %d bytes", n, len(b))
	}
	if _, ok := a.Checkpoint(); ok || a.End() != adapter.Unknown || a.Mask(nil, b) != nil {
		t.Error("raw understands something")
	}
}

func TestNewMask(t *testing.T) {
	for _, name := range []string{"", "a b", "date:", "dät", strings.Repeat("a", adapter.MaxName+1), "Content-Length", "transfer-encoding", "CONNECTION"} {
		if _, err := adapter.NewMask([]string{"Date", name}); err == nil {
			t.Errorf("%q may be masked", name)
		}
	}
	many := make([]string, 257)
	for i := range many {
		many[i] = fmt.Sprint("x-", i)
	}
	if _, err := adapter.NewMask(many); err == nil {
		t.Error("any number of names may be masked")
	}
	mask, err := adapter.NewMask([]string{"Set-Cookie"})
	if err != nil {
		t.Fatal(err)
	}
	b := crlf("HTTP/1.1 200 OK\nDate: x\nset-cookie: yz\n\n")
	for _, c := range []struct {
		mask *adapter.Mask
		want string
	}{{mask, "[[38 40]]"}, {nil, "[]"}} {
		a := adapter.NewHTTP(c.mask)
		a.Request(crlf(get))
		if got := fmt.Sprint(a.Mask(nil, b)); got != c.want {
			t.Errorf("masked %v, want %v", got, c.want)
		}
	}
}

// A connection between requests and in a body costs no allocation per slice.
func TestNoAllocations(t *testing.T) {
	a := newHTTP(t)
	a.Request(crlf("GET / HTTP/1.1\n\n"))
	if n := testing.AllocsPerRun(100, func() {
		req, resp := "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nab"
		var spans [4][2]int
		a.Request([]byte(req))
		b := []byte(resp)
		if a.Releasable(b, false) != len(b) || len(a.Mask(spans[:0], b)) != 1 {
			panic("not released, or not masked")
		}
		a.Response(b)
	}); n > 4 { // the slices that are given, and here and there a request's entry
		t.Errorf("%v allocations per exchange", n)
	}
}
