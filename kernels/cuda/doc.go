// Package cuda is kernels.Device on an NVIDIA GPU. A program that is built with the tag cuda and imports it has the devices
// "cuda" and "auto" of kernels.Open choose a GPU; without the tag the package is empty.
//
// The kernels are the .cu files here, compiled to PTX (ptx/, embedded), which the driver turns into machine code for its GPU
// when a device is opened. libcuda.so.1 is looked for when the first device is opened, so that one program serves
// machines with and without a GPU.
package cuda
