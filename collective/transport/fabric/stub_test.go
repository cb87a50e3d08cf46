//go:build !fabric || !cgo || !linux

package fabric

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWithoutLibfabricThereIsAnErrorThatSaysWhatToDo(t *testing.T) {
	_, err := Listen("127.0.0.1:0", Config{})
	require.ErrorIs(t, err, ErrNotBuilt)
	require.ErrorContains(t, err, "-tags fabric")
}
