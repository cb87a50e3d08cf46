// Package transport has what the transports of collective share. Each of them is a package below this one.
package transport

import "github.com/farandole-ml/farandole/elastic"

// ID says which place in which group a Connect asks for.
type ID struct {
	Job        string
	Generation elastic.Generation
	Rank       int
}
