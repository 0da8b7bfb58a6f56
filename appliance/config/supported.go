package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// Unsupported lists what the contract allows and this version cannot do yet.
// It is separate from validation so that a file written for a later version
// is still called right where it is right: `run` refuses to start with these,
// `check` shows them. A setting that protects less than it says is worse than
// a refusal, so nothing here is silently ignored.
func Unsupported(c *Config) Errors {
	var errs Errors
	if c.Pair.Commit == CommitAsync {
		errs.add("pair.commit", "write sync", "async is not in this version")
	}
	for i, s := range c.Services {
		unsupportedFamilies(fmt.Sprintf("services[%d]", i), &s, &errs)
	}
	return errs
}

// unsupportedFamilies reports listening addresses whose clients no server can
// see under their own address, because that would change its family on the way.
func unsupportedFamilies(path string, s *Service, errs *Errors) {
	if s.Source != SourceClient {
		return
	}
	for i, a := range s.Listen {
		if !slices.ContainsFunc(s.Servers, func(b netip.AddrPort) bool { return b.Addr().Is4() == a.Addr().Is4() }) {
			errs.add(fmt.Sprintf("%s.listen[%d]", path, i), "add such a server, or write source: gateway",
				"%v has no server of its family (%s), which source: client needs", a, family(a.Addr()))
		}
	}
}
