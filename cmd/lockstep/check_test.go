package main

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"lockstep/appliance/config"
)

// eachSetting calls do after having changed one setting beneath v, and puts it back.
func eachSetting(t *testing.T, v reflect.Value, path string, do func(path string)) {
	t.Helper()
	old := reflect.New(v.Type()).Elem()
	old.Set(v)
	defer func() { v.Set(old) }()
	switch x := v.Addr().Interface().(type) {
	case *netip.AddrPort:
		*x = netip.MustParseAddrPort("192.0.2.77:77")
		do(path)
		return
	case *netip.Addr:
		*x = netip.MustParseAddr("192.0.2.77")
		do(path)
		return
	case *netip.Prefix:
		*x = netip.MustParsePrefix("192.0.2.77/27")
		do(path)
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
		do(path)
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 7)
		do(path)
	case reflect.Uint64:
		v.SetUint(v.Uint() + 7)
		do(path)
	case reflect.String:
		v.SetString("another")
		do(path)
	case reflect.Map:
		for _, k := range v.MapKeys() {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(v.MapIndex(k))
			eachSetting(t, e, path+"."+k.String(), func(path string) {
				was := v.MapIndex(k)
				v.SetMapIndex(k, e)
				do(path)
				v.SetMapIndex(k, was)
			})
		}
	case reflect.Slice:
		changed := reflect.MakeSlice(v.Type(), max(1, v.Len()), max(1, v.Len()))
		reflect.Copy(changed, v)
		v.Set(changed)
		eachSetting(t, v.Index(0), path+"[]", do)
	case reflect.Struct:
		for i := range v.NumField() {
			eachSetting(t, v.Field(i), path+"."+v.Type().Field(i).Name, do)
		}
	default:
		t.Fatalf("%s: %v", path, v.Kind())
	}
}

// `lockstep check` says what it will do with every key: whatever is set otherwise shows.
func TestCheckSaysEverything(t *testing.T) {
	c, err := config.Load("../../lockstep.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.Services = c.Services[:1]
	s := &c.Services[0]
	s.Protection, s.TTL, s.MinTTL = config.ProtectHot, 200, 100
	c.Pair.Witness = netip.MustParseAddrPort("10.30.0.3:7401")
	c.Authority.Members = map[string]netip.AddrPort{c.Node: netip.MustParseAddrPort("10.20.0.2:7480")}
	say := func() string {
		var out strings.Builder
		summarise(&out, c)
		return out.String()
	}
	before := say()
	settings := 0
	eachSetting(t, reflect.ValueOf(c).Elem(), "", func(path string) {
		settings++
		if path == ".Services[].Health.TCP" { // what is probed otherwise: its own case below
			s.Health.HTTP = ""
		}
		if say() == before {
			t.Errorf("%s does not show", path)
		}
	})
	if settings < 45 {
		t.Errorf("only %d settings were found", settings)
	}
	expect(t, before, "starts without connections when whoever may hold some was silent for 10s",
		"reach: nobody is asked", "canary: two idle connections", "who is silent for 2h0m0s is asked every 1m15s, and is dead after 9 questions")
	c.Networks.Front.Reach = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	s.Keepalive.Idle, s.Health.Canary = 0, false
	expect(t, say(), "hands over when none of 203.0.113.1 answers any more", "keepalive: nobody is asked", "canary: off")
}
