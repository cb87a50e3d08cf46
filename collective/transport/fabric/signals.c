//go:build fabric && cgo && linux

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <string.h>

// Libraries that libfabric is linked with (libinfinipath, libpsm2) set handlers for signals while the program is loaded,
// before anything can ask them not to. The handlers write a file NAME.80s-PID,HOST.btr into the working directory and exit
// with status 1, and the Go runtime comes to them when it ends the program by a signal. This takes them back, before the
// Go runtime starts and looks what there is.
__attribute__((constructor)) static void forget_handlers(void) {
	static const int signals[] = {SIGINT, SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGTERM};
	for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) {
		struct sigaction a;
		Dl_info from;
		if (sigaction(signals[i], NULL, &a) || a.sa_handler == SIG_DFL || a.sa_handler == SIG_IGN)
			continue;
		if (!dladdr((void *)a.sa_sigaction, &from) || !from.dli_fname)
			continue;
		if (strstr(from.dli_fname, "libinfinipath") || strstr(from.dli_fname, "libpsm"))
			signal(signals[i], SIG_DFL);
	}
}
