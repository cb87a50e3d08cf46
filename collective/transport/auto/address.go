package auto

import (
	"fmt"
	"strings"
)

// address is all ways to a rank. Its text is the TCP address alone, or followed by the host and by the names of sockets
// there, "-" for none: 10.0.0.1:4000/8f3a12cd/@0002a/@0002b. A plain TCP address is therefore one too.
type address struct {
	tcp    string
	host   string // empty: not known
	unix   string // socket names on that host; empty: none
	shared string
}

// maxAddress bounds what is parsed.
const maxAddress = 1024

func (a address) String() string {
	if a.host == "" {
		return a.tcp
	}
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	return a.tcp + "/" + a.host + "/" + dash(a.unix) + "/" + dash(a.shared)
}

func parseAddress(s string) (address, error) {
	if len(s) > maxAddress {
		return address{}, fmt.Errorf("an address of %d bytes", len(s))
	}
	parts := strings.Split(s, "/")
	if parts[0] == "" || len(parts) != 1 && (len(parts) != 4 || parts[1] == "") {
		return address{}, fmt.Errorf("%q is no address: want HOST:PORT or HOST:PORT/HOSTNAME/SOCKET/SOCKET", s)
	}
	a := address{tcp: parts[0]}
	if len(parts) == 4 {
		a.host = parts[1]
		for i, to := range []*string{&a.unix, &a.shared} {
			if name := parts[2+i]; name != "-" {
				*to = name
			}
		}
	}
	return a, nil
}
