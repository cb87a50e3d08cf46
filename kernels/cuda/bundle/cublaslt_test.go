package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPackaged(t *testing.T) {
	site, none := t.TempDir(), t.TempDir()
	lib := filepath.Join(site, "nvidia", "cublas", "lib")
	require.NoError(t, os.MkdirAll(lib, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(site, "nvidia", "cu13", "lib"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(lib, "libcublasLt.so.12"), nil, 0o644))
	require.Equal(t, []string{lib}, packaged([]string{none, site}))
	require.Equal(t, "bf16 cublaslt", (&bench{products: "cublaslt"}).by("bf16"))
	require.Equal(t, "bf16", (&bench{}).by("bf16"))
}
