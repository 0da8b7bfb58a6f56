package replication

import (
	"bytes"
	"slices"

	"lockstep/replication/wire"
)

// orders are what the two say they go by of what the operator has ordered at run time. The core carries the text, and knows
// nothing of what it says: that the standby goes by what the active says is the appliances' to see to.
type orders struct {
	ours   []byte // what SetOrders told, if it was called; it survives a session
	told   bool
	saying bool // it waits for Flush
	peers  []byte
	said   bool // peers is of this session
	news   bool // see OrdersSaid
}

func (o *orders) begin(version uint8) orders {
	return orders{ours: o.ours, told: o.told, saying: o.told && version >= wire.OrdersVersion}
}

// SetOrders tells what this appliance goes by: at most wire.MaxOrders bytes, which must not be changed afterwards. The peer learns it at
// once, an older one does not.
func (c *Core) SetOrders(text []byte) {
	o := &c.beat.orders
	o.ours, o.told = text, true
	o.saying = c.joined && c.version >= wire.OrdersVersion
}

// PeerOrders is what the peer has said of them in this session; known is false until it has. It must not be changed.
func (c *Core) PeerOrders() (text []byte, known bool) {
	if !c.joined {
		return nil, false
	}
	return c.beat.orders.peers, c.beat.orders.said
}

// OrdersOwed: there is a session in which the peer will say that it goes by ours, and has not yet.
func (c *Core) OrdersOwed() bool {
	o := &c.beat.orders
	return c.joined && c.version >= wire.OrdersVersion && !(o.said && bytes.Equal(o.peers, o.ours))
}

// OrdersSaid reports, once each time, that the peer has said something of them.
func (c *Core) OrdersSaid() bool {
	news := c.beat.orders.news
	c.beat.orders.news = false
	return news
}

// hear takes the peer's.
func (o *orders) hear(payload []byte) error {
	text, err := wire.DecodeOrders(payload)
	if err != nil {
		return err
	}
	o.peers, o.said, o.news = slices.Clone(text), true, true
	return nil
}
