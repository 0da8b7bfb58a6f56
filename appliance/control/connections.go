package control

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
)

// Orders that ConnectionQuery.Sort names. The zero value is OrderAge.
const (
	OrderAge    = "age"  // the oldest first
	OrderIdle   = "idle" // the one first that has been idle longest
	OrderNewest = "newest"
)

// Orders are all of them.
var Orders = []string{OrderAge, OrderIdle, OrderNewest}

// MostConnections is how many connections one answer has at the most, and UsualConnections how many without a limit of the query's.
const (
	MostConnections  = 10000
	UsualConnections = 100
)

// ConnectionQuery says which connections are wanted. Zero values: all of them.
type ConnectionQuery struct {
	Service string
	Client  netip.Prefix   // whose address lies in it
	Exactly netip.AddrPort // the client's address and port; the answer has Text then
	State   string         // Connection.State
	Path    string         // Connection.Path
	Sort    string         // see Orders
	Limit   int            // 0: UsualConnections
}

// ConnectionList are those that were found.
type ConnectionList struct {
	Role string `json:"role"` // of the appliance; only an active one has any
	// Matched is how many there are of them, Busy how many more could not be looked at, because they were being run all the time, and
	// Resting how many more this appliance has taken over and not looked at yet, because nothing has passed on them.
	Matched     int          `json:"matched"`
	Busy        int          `json:"busy,omitempty"`
	Resting     int          `json:"resting,omitempty"`
	Connections []Connection `json:"connections"`
}

// Connection is how one stands.
type Connection struct {
	ID      uint64 `json:"id"`
	Service string `json:"service"`
	Client  string `json:"client"`
	Listen  string `json:"listen"`           // the service's address that the client has dialled
	Server  string `json:"server,omitempty"` // empty: it has none at present
	State   string `json:"state"`            // dialling, opening, accepting, open, lingering, over
	Path    string `json:"path"`             // passed on, ended, parked
	// Protected: a crash of this appliance now would not cost it.
	Protected  bool   `json:"protected"`
	AgeMicros  int64  `json:"age_micros"`  // since it was begun, or taken over, here
	IdleMicros int64  `json:"idle_micros"` // since this appliance had last to do with it
	WaitsFor   string `json:"waits_for"`   // empty: for nothing, it is being run
	Text       string `json:"text,omitempty"`
}

// values are q as an address has it.
func (q ConnectionQuery) values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("service", q.Service)
	set("state", q.State)
	set("path", q.Path)
	set("sort", q.Sort)
	if q.Client.IsValid() {
		v.Set("client", q.Client.String())
	}
	if q.Exactly.IsValid() {
		v.Set("exactly", q.Exactly.String())
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// parseConnectionQuery reads values.
func parseConnectionQuery(v url.Values) (q ConnectionQuery, err error) {
	q = ConnectionQuery{Service: v.Get("service"), State: v.Get("state"), Path: v.Get("path"), Sort: v.Get("sort"), Limit: UsualConnections}
	if q.Sort == "" {
		q.Sort = OrderAge
	}
	if !slices.Contains(Orders, q.Sort) {
		return q, fmt.Errorf("sort: %q is none of %v", q.Sort, Orders)
	}
	if s := v.Get("client"); s != "" {
		if q.Client, err = netip.ParsePrefix(s); err != nil {
			return q, fmt.Errorf("client: %w", err)
		}
	}
	if s := v.Get("exactly"); s != "" {
		if q.Exactly, err = netip.ParseAddrPort(s); err != nil {
			return q, fmt.Errorf("exactly: %w", err)
		}
	}
	if s := v.Get("limit"); s != "" {
		if q.Limit, err = strconv.Atoi(s); err != nil || q.Limit < 1 || q.Limit > MostConnections {
			return q, fmt.Errorf("limit: %q is not a number from 1 to %d", s, MostConnections)
		}
	}
	return q, nil
}
