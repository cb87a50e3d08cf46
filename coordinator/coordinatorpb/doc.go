// Package coordinatorpb is the control plane's messages and their generated gRPC code.
package coordinatorpb
