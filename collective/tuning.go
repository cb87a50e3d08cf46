package collective

import "log/slog"

// Tuning has the sizes and choices by which a group runs its algorithms. All ranks must use equal values.
type Tuning struct {
	// ChunkBytes is the unit in which large buffers are pipelined: a chunk is added and forwarded while the next
	// one arrives. Larger means fewer messages; smaller means that more of the work overlaps. Zero means 1 MiB.
	ChunkBytes int

	// DirectBytes is how many bytes a rank may receive in one operation for which every rank sends everything to
	// every other, in one round, instead of sharing the work in two or more. Larger saves rounds on a network
	// with high latency, smaller saves bytes. Zero means 64 KiB; negative means never.
	DirectBytes int

	// Algorithm is used for all operations that have it, whatever the table says. Auto means the table, or
	// shared memory where the transport has it.
	Algorithm Algorithm

	// Table chooses algorithms by operation, size, world and hosts; `farandole bench --tune` measures one. Nil
	// means DefaultTable. It must not change while the group lives.
	Table *Table

	// Wire is how ReduceTree's values travel where the call does not say. It is part of a job's arithmetic.
	Wire Wire

	// Logger is told, once, when registered memory is exhausted. Nil means slog.Default().
	Logger *slog.Logger
}

func (t Tuning) withDefaults() Tuning {
	if t.ChunkBytes <= 0 {
		t.ChunkBytes = 1 << 20
	}
	t.ChunkBytes = max(t.ChunkBytes/chunkUnit*chunkUnit, chunkUnit)
	if t.DirectBytes == 0 {
		t.DirectBytes = 64 << 10
	}
	if t.Table == nil {
		t.Table = DefaultTable()
	}
	if t.Logger == nil {
		t.Logger = slog.Default()
	}
	return t
}

// chunkUnit divides every chunk: it is a multiple of every type's size.
const chunkUnit = 8
