package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// maxReply bounds what a client reads: a thousand services fit in it.
const maxReply = 8 << 20

// maxWhy bounds why something is refused.
const maxWhy = 4 << 10

var errOlder = errors.New("the running appliance is of a version that does not know of it: restart it with this one")

// Client asks an appliance over its control socket.
type Client struct {
	path string
	http *http.Client
}

// NewClient makes a client for the socket at path; it connects when asked.
func NewClient(path string) *Client {
	var d net.Dialer
	return &Client{path: path, http: &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, "unix", path)
			},
			MaxIdleConns: 1, IdleConnTimeout: time.Minute,
		},
	}}
}

// Close gives up an idle connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the appliance's status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, "status", &s)
	return s, err
}

// FindConnections asks for some of the appliance's connections.
func (c *Client) FindConnections(ctx context.Context, q ConnectionQuery) (ConnectionList, error) {
	var l ConnectionList
	err := c.get(ctx, "connections?"+q.values().Encode(), &l)
	return l, err
}

// get asks for what is at a path, and reads it into v.
func (c *Client) get(ctx context.Context, path string, v any) error {
	what, _, _ := strings.Cut(path, "?")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://control/v1/"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return fmt.Errorf("ask for %s on %q: %w", what, c.path, errOlder)
	default:
		why, _ := io.ReadAll(io.LimitReader(resp.Body, maxWhy)) // what the status says already
		return fmt.Errorf("ask for %s on %q: the appliance answered %s: %s", what, c.path, resp.Status, strings.TrimSpace(string(why)))
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(v); err != nil {
		return fmt.Errorf("read %s from %q: %w", what, c.path, err)
	}
	return nil
}

// Switchover asks the active appliance to hand over, and waits until it has.
func (c *Client) Switchover(ctx context.Context) error {
	return c.post(ctx, "switchover", nil, nil, "switchover refused: ")
}

// Reload has the appliance read its configuration again. dry: it tells what would change, and changes nothing.
func (c *Client) Reload(ctx context.Context, dry bool) (done Reloaded, err error) {
	err = c.post(ctx, fmt.Sprintf("reload?dry_run=%t", dry), nil, &done, "reload refused, nothing is changed: ")
	return done, err
}

// Server orders something of a service's server, and waits until the standby knows.
func (c *Client) Server(ctx context.Context, cmd ServerCommand) (done ServerOrdered, err error) {
	err = c.post(ctx, "server", cmd, &done, "")
	return done, err
}

// post orders what is at a path, with a body unless that is nil, and reads the answer into v unless that is. refused is what
// stands before the appliance's reason.
func (c *Client) post(ctx context.Context, path string, body, v any, refused string) error {
	what, _, _ := strings.Cut(path, "?")
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/v1/"+path, &text)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer to %s from %q: %w", what, c.path, err)
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("order %s on %q: %w", what, c.path, errOlder)
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent:
		return errors.New(refused + strings.TrimSpace(string(answer)))
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return fmt.Errorf("read the answer to %s from %q: %w", what, c.path, err)
	}
	return nil
}

func (c *Client) explain(err error) error {
	hint := "is the appliance running?"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = "no such socket: is the appliance running, and is this its `control` path?"
	case errors.Is(err, syscall.ECONNREFUSED):
		hint = "the socket is there but nobody answers: the appliance has died"
	case errors.Is(err, fs.ErrPermission):
		hint = "only the appliance's user may ask: try as root"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		hint = "the appliance does not answer: it hangs or is frozen"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // the URL in the outer error means nothing to an operator
	}
	return fmt.Errorf("reach the appliance at %q: %w (%s)", c.path, err, hint)
}
