//go:build cuda

package cuda

// #include "driver.h"
import "C"

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/farandole-ml/farandole/kernels"
)

// codeOutOfMemory is CUDA_ERROR_OUT_OF_MEMORY.
const codeOutOfMemory = 2

// codeOf is the driver's code in an error of gorgonia.org/cu, whose type is its own; 0 for any other.
func codeOf(err error) int {
	for ; err != nil; err = errors.Unwrap(err) {
		if v := reflect.ValueOf(err); v.Kind() == reflect.Int {
			return int(v.Int())
		}
	}
	return 0
}

func isCode(err error, code int) bool { return err != nil && codeOf(err) == code }

// described puts the driver's own words in place of gorgonia.org/cu's name for an error.
func described(err error) error {
	code := codeOf(err)
	if code == 0 {
		return err
	}
	return fmt.Errorf("%s (CUDA error %d)", C.GoString(C.farandole_describe(C.int(code))), code)
}

// driverError is nil for a result of the shim that is a success.
func driverError(result C.int) error {
	if result == 0 {
		return nil
	}
	return code(result)
}

// code is a result of the driver, as gorgonia.org/cu's own type is.
type code int

func (c code) Error() string { return C.GoString(C.farandole_describe(C.int(c))) }

// fail makes an error of op stick, unless there is one already, and gives the one that sticks.
func (d *device) fail(op string, err error) error {
	if d.err == nil {
		d.err = &kernels.DeviceError{Device: d.name, Op: op, Err: described(err)}
	}
	return d.err
}

// failAsync makes an error stick that came out of waiting: any call since the wait before may be the one.
func (d *device) failAsync(err error) {
	if d.err == nil {
		d.err = &kernels.DeviceError{
			Device: d.name, Op: d.last,
			Err: fmt.Errorf("%w, in this or an operation shortly before; the environment's CUDA_LAUNCH_BLOCKING=1 tells which", described(err)),
		}
	}
}
