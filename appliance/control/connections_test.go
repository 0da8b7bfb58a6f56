package control

import (
	"context"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A query is at the appliance what it was at who asks.
func TestQueryArrives(t *testing.T) {
	for _, q := range []ConnectionQuery{
		{Sort: OrderAge, Limit: UsualConnections},
		{Service: "a b&c", State: "open", Path: "passed on", Sort: OrderIdle, Limit: MostConnections, Client: netip.MustParsePrefix("192.0.2.0/24")},
		{Sort: OrderNewest, Limit: 1, Exactly: netip.MustParseAddrPort("[2001:db8::17]:50312")},
	} {
		v, err := url.ParseQuery(q.values().Encode())
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseConnectionQuery(v)
		if err != nil || got != q {
			t.Errorf("%s", cmp.Diff(q, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })))
		}
	}
	for _, wrong := range []string{"sort=size", "limit=0", "limit=10001", "limit=x", "client=192.0.2.1", "exactly=192.0.2.1"} {
		v, err := url.ParseQuery(wrong)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseConnectionQuery(v); err == nil {
			t.Errorf("%s is taken", wrong)
		}
	}
}

// asked notes what it is asked for.
type asked struct {
	fixed
	query *ConnectionQuery
}

func (a asked) FindConnections(q ConnectionQuery) ConnectionList {
	*a.query = q
	return ConnectionList{Role: RoleActive, Matched: 7, Connections: []Connection{{ID: 3, Client: "192.0.2.17:1"}}}
}

func TestConnectionsOverTheSocket(t *testing.T) {
	var q ConnectionQuery
	c := asking(t, asked{query: &q})
	l, err := c.FindConnections(context.Background(), ConnectionQuery{Service: "web", Limit: 5})
	if err != nil || l.Matched != 7 || len(l.Connections) != 1 || q.Service != "web" || q.Limit != 5 {
		t.Errorf("%+v, %v, asked for %+v", l, err, q)
	}
	if _, err := c.FindConnections(context.Background(), ConnectionQuery{Sort: "size"}); err == nil || !strings.Contains(err.Error(), `sort: "size" is none of`) {
		t.Errorf("a wrong query: %v", err)
	}
}
