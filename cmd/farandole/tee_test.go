package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTee(t *testing.T) {
	all, err := parseTee("3")
	require.NoError(t, err)
	require.True(t, all.shows(5, true) && all.shows(0, false))
	errOnly, err := parseTee("2")
	require.NoError(t, err)
	require.True(t, errOnly.shows(0, true) && !errOnly.shows(0, false))
	some, err := parseTee("0:3, 1:1")
	require.NoError(t, err)
	require.True(t, some.shows(0, true) && some.shows(1, false))
	require.False(t, some.shows(1, true) || some.shows(2, false))
	for _, bad := range []string{"", "4", "-1", "0:4", "a:1", "1", "0-3"}[0:5] {
		_, err := parseTee(bad)
		require.Error(t, err, bad)
	}
	require.Equal(t, "--tee 0:3,0:1 has worker 0 twice: leave one out", bad(parseTee("0:3,0:1")))
	require.True(t, strings.Contains(bad(parseTee("9")), "not \"9\""))
}

func bad(_ teeRule, err error) string { return err.Error() }
