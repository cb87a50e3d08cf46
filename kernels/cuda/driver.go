//go:build cuda

package cuda

// #cgo LDFLAGS: -ldl
// #include "driver.h"
import "C"

import (
	"errors"
	"sync"
)

// reasonLen is the room for the driver's explanation.
const reasonLen = 256

// loadDriver makes the driver's entry points usable, once. Its error says why they are not.
var loadDriver = sync.OnceValue(func() error {
	var why [reasonLen]C.char
	if C.farandole_load_driver(&why[0], reasonLen) != 0 {
		return errors.New(C.GoString(&why[0]))
	}
	return nil
})
