// Package coordinatorpb is the control plane's messages and their generated gRPC code.
package coordinatorpb

// WindowBytes is the flow-control window of every connection and stream. It is fixed: left to itself, gRPC measures
// the bandwidth with a ping for every burst of data, and each ping wakes both sides while workers want the cores.
const WindowBytes = 1 << 20
