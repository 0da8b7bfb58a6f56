package machine

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// asked is a control socket that answers when it is told to.
type asked struct {
	paths  chan string
	answer chan string // an empty one: it is not there
}

func (a *asked) RoundTrip(req *http.Request) (*http.Response, error) {
	a.paths <- req.Method + " " + req.URL.Path
	select {
	case text := <-a.answer:
		if text == "" {
			return nil, errors.New("nobody there")
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(text))}, nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

const question = "GET /v1/status HTTP/1.1\r\nHost: control\r\n\r\n"

func TestPortAnswers(t *testing.T) {
	in, toPort := io.Pipe()
	fromPort, out := io.Pipe()
	a := &asked{paths: make(chan string, 1), answer: make(chan string, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		answerAll(questions(in), out, a)
	}()
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(toPort, text); err != nil {
			t.Fatal(err)
		}
	}
	answers := bufio.NewReader(fromPort)
	expect := func(status int, body string) {
		t.Helper()
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status || !strings.Contains(string(text), body) {
			t.Errorf("answered %s %q, %v", resp.Status, text, err)
		}
	}
	ask := func(want string) {
		t.Helper()
		if got := <-a.paths; got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
	}

	say(question)
	ask("GET /v1/status")
	a.answer <- `{"node":"a"}`
	expect(200, `"node":"a"`)

	say("POST /v1/switchover HTTP/1.1\r\nHost: control\r\nContent-Length: 0\r\n\r\n")
	ask("POST /v1/switchover")
	a.answer <- ""
	expect(503, "not running")

	// A client leaves unanswered, the next one asks: it gets its own answer, and no other.
	say(question)
	ask("GET /v1/status")
	say(strings.Replace(question, "status", "other", 1))
	ask("GET /v1/other")
	a.answer <- "second"
	expect(200, "second")

	// Half a question is thrown away with what follows it at once, not taken for a part of the next.
	say("nonsense\r\n\r\n")
	say(question)
	ask("GET /v1/status")
	a.answer <- "third"
	expect(200, "third")

	toPort.Close()
	<-done
}
