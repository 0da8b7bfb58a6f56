#!/usr/bin/env bash
# Which times reach an OPC UA peer, and which are read?
# Version: github.com/gopcua/opcua v0.8.0, package ua. Format: OPC 10000-6 section 5.2.2.5: 100 ns since 1601; what is up to 1601-01-01 is
#       sent as 0, what is from 9999-12-31 23:59:59 on as the largest number, and receivers take these for the earliest and the latest time.
# Guess: every time from 1601 to 9999 survives: "never" (9999) and "unknown" (1601) are what controllers often hold.
# Seen: only what lies within 292 years of 1970. 1601-01-01 is sent as a day in 2185, 9999-12-31 as one in 1816, without an error, and
#       what other stacks send for 9999 and for the latest time is read as days in 1816 and 2185.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/gopcua/opcua/ua"
)

func read(b []byte) string {
	var v ua.Variant
	if _, err := v.Decode(b); err != nil {
		return err.Error()
	}
	return v.Value().(time.Time).UTC().Format("2006-01-02")
}

func main() {
	for _, year := range []int{1601, 1677, 1700, 2023, 2262, 2263, 9999} {
		t := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		if year == 9999 {
			t = time.Date(year, 12, 31, 23, 59, 59, 0, time.UTC)
		}
		v, err := ua.NewVariant(t)
		if err != nil {
			panic(err)
		}
		b, err := v.Encode()
		if err != nil {
			fmt.Println(t.Format("2006-01-02"), "is refused:", err)
			continue
		}
		ticks := binary.LittleEndian.Uint64(b[1:])
		sent := time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, int(ticks/864e9))
		fmt.Println(t.Format("2006-01-02"), "is sent as", sent.Format("2006-01-02"))
	}
	fmt.Println("9999-12-31 of another stack is read as", read(binary.LittleEndian.AppendUint64([]byte{13}, 2650467743990000000)))
	fmt.Println("the latest time is read as", read(binary.LittleEndian.AppendUint64([]byte{13}, 1<<63-1)))
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/gopcua/opcua/ua@v0.8.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="1601-01-01 is sent as 2185-07-21
1677-01-01 is sent as 2261-07-22
1700-01-01 is sent as 1700-01-01
2023-01-01 is sent as 2023-01-01
2262-01-01 is sent as 2262-01-01
2263-01-01 is sent as 1678-06-12
9999-12-31 is sent as 1816-03-30
9999-12-31 of another stack is read as 1816-03-30
the latest time is read as 2185-07-21"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
