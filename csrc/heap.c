/* What malloc() has handed out, and what it keeps. */

#include <errno.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "memwatch.h"

int mw_heap(struct mw_heap *out)
{
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
	/* Before 2.33 there is only mallinfo(), whose numbers wrap at 2 GiB. */
	const struct mallinfo2 it = mallinfo2();

	*out = (struct mw_heap){
		.live = it.uordblks + it.hblkhd,
		.held = it.arena + it.hblkhd,
	};
	return 0;
#else
	(void)out;
	return -ENOSYS;
#endif
}

int mw_trim(void)
{
#ifdef __GLIBC__
	return malloc_trim(0);
#else
	return -ENOSYS;
#endif
}
