/*
 * pyglue.c - the one file that knows the interpreter.
 *
 * Never called by the brake's thread, which must not wait for the interpreter lock.
 */

/* A free-threaded interpreter has no stable ABI. */
#ifdef MW_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <malloc.h>

#include "memwatch.h"

static PyObject *raise_in(PyObject *self, PyObject *arguments)
{
	unsigned long ident;
	PyObject *type;

	(void)self;
	if (!PyArg_ParseTuple(arguments, "kO:raise_in", &ident, &type))
		return NULL;
	return PyBool_FromLong(PyThreadState_SetAsyncExc(ident, type == Py_None ? NULL : type) > 0);
}

static PyObject *raise_after(PyObject *self, PyObject *decide)
{
	PyObject *type = PyObject_CallNoArgs(decide);

	(void)self;
	if (type && type != Py_None)
		(void)PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), type);
	return type;
}

int mw_install(void *object)
{
	/* The interpreter writes nothing to them, but does not say so. */
	static PyMethodDef methods[] = {
		{ "raise_in", raise_in, METH_VARARGS, NULL },
		{ "raise_after", raise_after, METH_O, NULL },
	};
	PyGILState_STATE state = PyGILState_Ensure();
	int err = 0;

	for (size_t i = 0; !err && i < sizeof(methods) / sizeof(*methods); i++) {
		PyObject *function = PyCFunction_NewEx(&methods[i], NULL, NULL);

		err = function ? PyObject_SetAttrString((PyObject *)object, methods[i].ml_name, function) : -1;
		Py_XDECREF(function);
	}
	if (err)
		PyErr_Clear();
	PyGILState_Release(state);
	return err ? -ENOMEM : 0;
}
