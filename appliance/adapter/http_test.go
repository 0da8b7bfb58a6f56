package adapter_test

import (
	"maps"
	"strings"
	"testing"

	"lockstep/appliance/adapter"
)

const (
	get  = "GET / HTTP/1.1\nHost: a\n\n"
	head = "HEAD / HTTP/1.1\nHost: a\n\n"
	two  = "{HTTP/1.1 200 OK\nContent-Length: 2\n\n}ab"
)

// examples are exchanges in which all requests come before the responses.
var examples = []example{
	{"nothing", "", "", false, adapter.Complete},
	{"one", get + "|", two + "|", false, adapter.Complete},
	{"unanswered", get, "", false, adapter.Premature},
	{"unanswered, client gone", get, "", true, adapter.Unknown},
	{"part of a request", "GET / HT", "", false, adapter.Complete},
	{"head cut", get, "{HTTP/1.1 200 OK\nContent-Le", false, adapter.Premature},
	{"body cut", get, "{HTTP/1.1 200 OK\nContent-Length: 20\n\n}ab", false, adapter.Premature},
	{"body cut, client gone", get, "{HTTP/1.1 200 OK\nContent-Length: 20\n\n}ab", true, adapter.Premature},
	{"empty body", get + "|", "{HTTP/1.1 200 OK\ncontent-length:0\n\n}|", false, adapter.Complete},
	{"no reason", get + "|", "{HTTP/1.1 200\nContent-Length: 0\n\n}|", false, adapter.Complete},
	{"reason of many words", get + "|", "{HTTP/1.1 404 Not here: \xe4\t, or there\nContent-Length: 0\n\n}|", false, adapter.Complete},
	{"pipelined", get + "|" + get + "|" + get + "|", two + "|" + two + "|" + two + "|", false, adapter.Complete},
	{"pipelined, one unanswered", get + "|" + get + "|" + get, two + "|" + two + "|", false, adapter.Premature},
	{"empty lines before requests", "\n\n" + get + "|\n" + get + "|", two + "|" + two + "|", false, adapter.Complete},
	{"HEAD", head + "|" + get + "|", "{HTTP/1.1 200 OK\nContent-Length: 1000\n\n}|" + two + "|", false, adapter.Complete},
	{"HEAD of chunks", head + "|" + get + "|", "{HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n}|" + two + "|", false, adapter.Complete},
	{"head is not HEAD", strings.ToLower(head[:4]) + head[4:] + "|", two + "|", false, adapter.Complete},
	{"204", get + "|" + get + "|", "{HTTP/1.1 204 No Content\n\n}|" + two + "|", false, adapter.Complete},
	{"304", get + "|" + get + "|", "{HTTP/1.1 304 Not Modified\nContent-Length: 7\n\n}|" + two + "|", false, adapter.Complete},
	{"205", get + "|", "{HTTP/1.1 205 Reset\nContent-Length: 0\n\n}|", false, adapter.Complete},
	{"interim", get + "|" + get + "|",
		"{HTTP/1.1 103 Early Hints\nLink: x\n\n}{HTTP/1.1 102 Processing\n\n}" + two + "|" + two + "|", false, adapter.Complete},
	{"interim only", get, "{HTTP/1.1 103 Early Hints\n\n}", false, adapter.Premature},
	{"continue for the second", get + "|" + get, two + "|{HTTP/1.1 100 Continue\n\n}", false, adapter.Premature},

	{"request bodies", "POST / HTTP/1.1\nContent-Length: 5\n\nGET /|" + get + "|", two + "|" + two + "|", false, adapter.Complete},
	{"request of chunks", "POST / HTTP/1.1\nTransfer-Encoding: Chunked\n\n5;a=b\nGET /\nA \n0123456789\n0\nX: y\n\n|" + get + "|", two + "|" + two + "|", false, adapter.Complete},
	{"request body cut", "POST / HTTP/1.1\nContent-Length: 5\n\nab", "", false, adapter.Premature},
	{"request body never whole", "POST / HTTP/1.1\nContent-Length: 5\n\nab", "", true, adapter.Complete},
	{"answered before the request's end", "POST / HTTP/1.1\nContent-Length: 5\n\nab", two, false, adapter.Complete},

	{"chunks", get + "|" + get + "|", "{HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n}1;q=\"x\"\na\n00A\n0123456789\n0\n{\n}|" + two + "|", false, adapter.Complete},
	{"trailers", get + "|", "{HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n}1\na\n0\n{Content-Length: 5\nServer-Timing: <x>\n\n}|", false, adapter.Complete},
	{"chunk cut", get, "{HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n}a\n0123", false, adapter.Premature},
	{"last chunk missing", get, "{HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n}1\na\n", false, adapter.Premature},
	{"last chunk cut", get, "{HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n}1\na\n0\n{^", false, adapter.Premature},
	{"coded until the end", get, "{HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\n}abc", false, adapter.Unknown},

	{"until the end", get, "{HTTP/1.1 200 OK\n\n}ab\n\nHTTP/1.1 200 OK\n\n", false, adapter.Unknown},
	{"HTTP/1.0", "GET / HTTP/1.0\n\n", "{HTTP/1.1 200 OK\nContent-Length: 2\n\n}ab", false, adapter.Complete},
	{"HTTP/1.0 server", get, "{HTTP/1.0 200 OK\nContent-Length: 2\n\n}ab", false, adapter.Complete},
	{"HTTP/1.0 kept alive", "GET / HTTP/1.0\nConnection: Keep-Alive\n\n|", "{HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 2\n\n}ab|", false, adapter.Complete},
	{"closing", get + get, "{HTTP/1.1 200 OK\nConnection: x, close \nContent-Length: 2\n\n}ab", false, adapter.Complete},
	{"closing, cut", get, "{HTTP/1.1 200 OK\nConnection: close\nContent-Length: 2\n\n}a", false, adapter.Premature},
	{"asked to close", "GET / HTTP/1.1\nConnection: close\n\n", two, false, adapter.Complete},
	{"went on all the same", "GET / HTTP/1.1\nConnection: close\n\n" + get + "|", two + two + "|", false, adapter.Complete},

	{"masked", get + "|", "{HTTP/1.1 200 OK\ndate:<Wed, 25 Nov 2026 09:00:00 GMT>\nServer: a\nDATE:\t <x y >\nDate:\nX-Date: z\nAge: <1>\nContent-Length: 2\n\n}ab|", false, adapter.Complete},
	{"masked interim", get + "|", "{HTTP/1.1 103 Hints\nX-Request-ID: <1>\n\n}{HTTP/1.1 200 OK\nx-request-id: <1>\nContent-Length: 17\n\n}\nDate: x\n\nabcd|", false, adapter.Complete},
	{"long names", get + "|", "{HTTP/1.1 200 OK\nX-Very-Very-Very-Very-Very-Very-Long-Name: a\nDate: <b>\nConnection: X-Very-Very-Very-Very-Very-Very-Long-Name\nContent-Length: 0\n\n}|", false, adapter.Complete},

	{"negotiated", "GET / HTTP/1.1\nAuthorization: Negotiate YII=\n\n" + get, two + two, false, adapter.Complete},
	{"ntlm comes second", get + "|GET / HTTP/1.1\nauthorization: NTLM TlRM\n\n" + get, two + "|" + two + two, false, adapter.Complete},
	{"basic", "GET / HTTP/1.1\nAuthorization: Basic bnRsbTo=\n\n|", two + "|", false, adapter.Complete},

	{"switched", "GET / HTTP/1.1\nUpgrade: x\n\n", "{HTTP/1.1 101 Switching Protocols\nUpgrade: x\n\n}" + "HTTP/1.1 200 OK\nDate: x\n\n", false, adapter.Unknown},
	{"tunnel", get + "|CONNECT a:1 HTTP/1.1\n\nabc", two + "|" + "{HTTP/1.1 200 OK\nContent-Length: 0\n\n}" + "HTTP/1.1 200 OK\nDate: x\n\n", false, adapter.Unknown},
	{"no tunnel", "CONNECT a:1 HTTP/1.1\n\n", "{HTTP/1.1 403 No\nContent-Length: 2\n\n}abHTTP/1.1", false, adapter.Unknown},
	{"unasked", get + "|", two + "|{HTTP/1.1 408 Timeout\nConnection: close\nContent-Length: 2\n\n}ab", false, adapter.Complete},
	{"unasked, not closing", get + "|", two + "|{HTTP/1.1 200 OK\nContent-Length: 2\n\n}abHTTP", false, adapter.Unknown},
	{"unasked, cut", get + "|", two + "|{HTTP/1.1 408 Timeout\nContent-Length: 2\n\n}a", false, adapter.Unknown},
	{"unasked head, cut", get + "|", two + "|{HTTP/1.1 408 Tim", false, adapter.Unknown},
}

// opaqueRequests are not understood; all that the server says to them passes.
var opaqueRequests = map[string]string{
	"both lengths":          "POST / HTTP/1.1\nContent-Length: 3\nTransfer-Encoding: chunked\n\n0\n\n",
	"both lengths, swapped": "POST / HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 3\n\n0\n\n",
	"two lengths":           "POST / HTTP/1.1\nContent-Length: 3\nContent-Length: 3\n\nabc",
	"list of lengths":       "POST / HTTP/1.1\nContent-Length: 3, 3\n\nabc",
	"sign":                  "POST / HTTP/1.1\nContent-Length: +3\n\nabc",
	"no length":             "POST / HTTP/1.1\nContent-Length: \n\nabc",
	"length with space":     "POST / HTTP/1.1\nContent-Length: 3 3\n\nabc",
	"hexadecimal length":    "POST / HTTP/1.1\nContent-Length: 0x3\n\nabc",
	"length too great":      "POST / HTTP/1.1\nContent-Length: 9223372036854775808\n\nabc",
	"length of many digits": "POST / HTTP/1.1\nContent-Length: 0000000000000000000000000000003\n\nabc",
	"not chunked":           "POST / HTTP/1.1\nTransfer-Encoding: gzip\n\nabc",
	"chunked not last":      "POST / HTTP/1.1\nTransfer-Encoding: chunked, gzip\n\n0\n\n",
	"chunked twice":         "POST / HTTP/1.1\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n",
	"chunked in quotes":     "POST / HTTP/1.1\nTransfer-Encoding: \"chunked\"\n\n0\n\n",
	"empty coding":          "POST / HTTP/1.1\nTransfer-Encoding: ,chunked\n\n0\n\n",
	"vertical tab":          "POST / HTTP/1.1\nTransfer-Encoding: \vchunked\n\n0\n\n",
	"chunked in HTTP/1.0":   "POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n0\n\n",
	"space before colon":    "POST / HTTP/1.1\nContent-Length : 3\n\nabc",
	"folded":                "POST / HTTP/1.1\nX: a\n b: c\n\n",
	"space before fields":   "GET / HTTP/1.1\n Host: a\n\n",
	"no colon":              "GET / HTTP/1.1\nHost\n\n",
	"no name":               "GET / HTTP/1.1\n: a\n\n",
	"bare LF":               "GET / HTTP/1.1~Host: a~~",
	"bare LF in fields":     "GET / HTTP/1.1\nHost: a~\n\n",
	"bare CR in a value":    "GET / HTTP/1.1\nHost: a^b\n\n",
	"NUL in a value":        "GET / HTTP/1.1\nHost: a\x00\n\n",
	"old version":           "GET /\n",
	"later version":         "GET / HTTP/1.2\n\n",
	"HTTP/2":                "PRI * HTTP/2.0\n\nSM\n\n",
	"two spaces":            "GET  / HTTP/1.1\n\n",
	"space in target":       "GET /a b HTTP/1.1\n\n",
	"no method":             " / HTTP/1.1\n\n",
	"TLS":                   "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	"not HTTP":              "EHLO a\n",
}

func TestExchanges(t *testing.T) {
	all := examples
	for name, requests := range opaqueRequests {
		// What was understood before keeps its framing.
		all = append(all, example{"opaque: " + name, get + "|" + requests, two + "|HTTP/1.1 200 OK\nDate: x\n\nabc", false, adapter.Unknown})
	}
	for _, e := range all {
		t.Run(e.name, func(t *testing.T) {
			x := e.parse()
			points, masked := trace(t, x)
			checkSaid(t, x, points, masked, e.end)
			checkReleasable(t, x)
			for cut := range len(x.req) + 1 {
				sameInSlices(t, x, points, masked, cut)
			}
			for cut := range len(x.resp) + 1 {
				sameInSlices(t, x, points, masked, len(x.req), cut)
			}
			checkpoint := 0
			for at, p := range points {
				if p.ok {
					checkpoint = int(p.req)
				}
				sameAfterRestore(t, x, points, masked, at, checkpoint)
				sameAfterRestore(t, x, points, masked, at, 0)
			}
		})
	}
}

// checkSaid compares what was said at every offset with the marks.
func checkSaid(t *testing.T, x *exchange, points []point, masked []bool, end adapter.Verdict) {
	t.Helper()
	got := map[int]uint64{}
	for at, p := range points {
		if p.ok {
			got[at] = p.req
		}
	}
	if !maps.Equal(got, x.checkpoints) {
		t.Errorf("checkpoints by response offset: %v, want %v", got, x.checkpoints)
	}
	if last := points[len(points)-1]; last.end != end {
		t.Errorf("a FIN after it is %v, want %v", last.end, end)
	}
	want := make([]bool, len(x.resp))
	maskedBytes(t, want, x.masked, 0, len(x.resp))
	if show(x.resp, masked) != show(x.resp, want) {
		t.Errorf("masked\n%s, want\n%s", show(x.resp, masked), show(x.resp, want))
	}
}

// checkReleasable asks at every offset about everything that may have come by then.
func checkReleasable(t *testing.T, x *exchange) {
	t.Helper()
	for from := range len(x.resp) + 1 {
		a := newHTTP(t)
		request(a, x, 0, max(len(x.req), 1))
		give(t, a, x.resp[:from], 0, func(int) {})
		for to := from; to <= len(x.resp); to++ {
			want := to
			for _, h := range x.held {
				// A } left out: the section does not end.
				if h[0] < to && (to < h[1] || h[1] == h[0]) {
					want = max(h[0], from)
				}
			}
			if n := a.Releasable(x.resp[from:to], false); from+n != want {
				t.Fatalf("at %d, %q came: %d bytes released, want %d", from, x.resp[from:to], n, want-from)
			}
		}
	}
}

func TestReleasableAtEnd(t *testing.T) {
	held := 0
	for _, e := range examples {
		x := e.parse()
		for to := range len(x.resp) + 1 {
			a := newHTTP(t)
			request(a, x, 0, max(len(x.req), 1))
			n := a.Releasable(x.resp[:to], true)
			give(t, a, x.resp[:n], 0, func(int) {})
			if n < to && a.End() != adapter.Premature {
				t.Errorf("%s: %d of %d bytes are released at the end, where a FIN is %v", e.name, n, to, a.End())
			}
			if n == to {
				continue
			}
			// What is held back is a head.
			held++
			if a.Releasable(x.resp[n:to], false) != 0 {
				t.Errorf("%s: %q is held back at the end, and not before", e.name, x.resp[n:to])
			}
		}
	}
	if held == 0 {
		t.Error("nothing was ever held back")
	}
}

// Responses that are not understood, in answer to get.
func TestOpaqueResponses(t *testing.T) {
	for name, text := range map[string]string{
		"both lengths":          "HTTP/1.1 200 OK\nContent-Length: 3\nTransfer-Encoding: chunked\n\n0\n\n",
		"two lengths":           "HTTP/1.1 200 OK\nContent-Length: 3\nContent-Length: 4\n\nabc",
		"chunked in HTTP/1.0":   "HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n0\n\n",
		"bare LF":               "HTTP/1.1 200 OK~Content-Length: 3~~abc",
		"folded":                "HTTP/1.1 200 OK\nContent-Length: 3\n 4\n\nabc",
		"empty line before":     "\nHTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
		"banner":                "SSH-2.0-x\n",
		"part of a banner":      "HTTP/2",
		"status of two digits":  "HTTP/1.1 20 OK\n\n",
		"status of four digits": "HTTP/1.1 2000 OK\n\n",
		"status 0":              "HTTP/1.1 000 OK\n\n",
		"ICY":                   "ICY 200 OK\n\n",
		"chunk without size":    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n;a\n",
		"chunk of no size":      "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nx\n",
		"chunk too large":       "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1000000000000000\n",
		"chunk not ended":       "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1\nab\n",
		"chunk line with LF":    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1~a\n",
		"chunk extension LF":    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1;a~a\n",
		"long chunk extension":  "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1;" + strings.Repeat("a", 5000) + "\na\n",
		"trailer without colon": "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\nabc\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			e := example{requests: get, replies: text}
			x := e.parse()
			points, masked := trace(t, x)
			last := points[len(points)-1]
			if last.end != adapter.Unknown || last.ok || len(last.state) != 3 {
				t.Errorf("after it: %+v, want opaque", last)
			}
			for at := 0; at < len(points); at += 1 + len(points)/200 {
				sameInSlices(t, x, points, masked, len(x.req), at)
				sameAfterRestore(t, x, points, masked, at, 0)
			}
			a := newHTTP(t)
			a.Request(x.req)
			if n := a.Releasable(x.resp, false); n != len(x.resp) {
				t.Errorf("%d of %d bytes are released", n, len(x.resp))
			}
		})
	}
}
