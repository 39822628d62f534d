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
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

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

/* ------------------------------------------------------- rows of a replay buffer --- */

enum { MAX_DIMENSIONS = 8, MAX_FIELDS = 64, STACK_PLACES = 1024 };

/* Bytes that are copied with the interpreter lock held: 0.1 ms at 2.5 GB/s. */
enum { LONGEST_HELD = 1 << 18 };

struct field {
	PyObject *name;   /* interned */
	PyObject *dtype;  /* numpy's own, of which there is one each */
	PyObject *scalar; /* numpy's type for one such value */
	char kind;        /* numpy's letter for it: b, i, u, f, c */
	int dimensions;
	Py_ssize_t shape[MAX_DIMENSIONS];
	struct mw_column column;
};

struct rows_object {
	PyObject_HEAD
	struct mw_rows *rows; /* the owner's; NULL: not armed yet */
	PyObject *owner;
	PyObject *array; /* numpy.ndarray */
	PyObject *dtype; /* "dtype" */
	uint32_t n;
	struct field fields[MAX_FIELDS];
};

/* A number of Python's own, as the field has it; false: not in full, or not at all. */
static bool number(const struct field *field, PyObject *value, uint8_t *out)
{
	const uint64_t bytes = field->column.bytes;
	double real;
	long long whole;
	int overflow = 0;

	if (field->dimensions)
		return false;
	if (PyBool_Check(value)) {
		*out = value == Py_True;
		return field->kind == 'b';
	}
	if (PyFloat_CheckExact(value)) {
		real = PyFloat_AsDouble(value);
	} else if (PyLong_CheckExact(value)) {
		whole = PyLong_AsLongLongAndOverflow(value, &overflow);
		if (overflow)
			return false;
		if ((field->kind == 'i' && (bytes == 8 || whole >> (8 * bytes - 1) == -(whole < 0))) ||
		    (field->kind == 'u' && whole >= 0 && (bytes == 8 || whole >> (8 * bytes) == 0))) {
			/* Two's complement, its lowest byte first or last. */
			const int64_t wide = whole;
			const int32_t middle = (int32_t)whole;
			const int16_t narrow = (int16_t)whole;
			const int8_t byte = (int8_t)whole;

			memcpy(out, bytes == 8 ? (const void *)&wide : bytes == 4 ? (const void *)&middle :
					 bytes == 2 ? (const void *)&narrow : (const void *)&byte, bytes);
			return true;
		}
		if (field->kind != 'f' || whole > 1 << 24 || whole < -(1 << 24))
			return false;
		real = (double)whole;
	} else {
		return false;
	}
	if (field->kind != 'f')
		return false;
	if (bytes == 8) {
		memcpy(out, &real, 8);
		return true;
	}
	if (bytes == 4 && (isinf(real) || isnan(real) || fabs(real) <= FLT_MAX)) {
		const float single = (float)real;

		memcpy(out, &single, 4);
		return true;
	}
	return false;
}

/* An array, or a number of numpy's, of the very type; with `many`, that many of them (-1: not known yet). */
static bool array(struct rows_object *self, const struct field *field, PyObject *value, Py_ssize_t *many, Py_buffer *view)
{
	const int more = many != NULL;
	PyObject *dtype;

	if (Py_TYPE(value) != (PyTypeObject *)self->array) {
		if (more || (PyObject *)Py_TYPE(value) != field->scalar || field->dimensions)
			return false;
		if (PyObject_GetBuffer(value, view, PyBUF_SIMPLE))
			return false;
		return (uint64_t)view->len == field->column.bytes;
	}
	dtype = PyObject_GetAttr(value, self->dtype);
	if (!dtype)
		return false;
	Py_DECREF(dtype); /* the array has it */
	if (dtype != field->dtype || PyObject_GetBuffer(value, view, PyBUF_C_CONTIGUOUS))
		return false;
	if (view->ndim != field->dimensions + more)
		return false;
	if (more) {
		if (*many < 0)
			*many = view->shape[0];
		if (*many != view->shape[0])
			return false;
	}
	for (int d = 0; d < field->dimensions; d++)
		if (view->shape[d + more] != field->shape[d])
			return false;
	return true;
}

/* Which field it is: the one at its place, if they are given in order. */
static uint32_t named(const struct rows_object *self, PyObject *name, uint32_t first)
{
	uint32_t at = first;

	if (self->fields[at].name == name)
		return at;
	/* Not every name is interned: "obs/position" is none that Python would. */
	for (at = 0; at < self->n; at++)
		if (self->fields[at].name == name || !PyUnicode_Compare(self->fields[at].name, name))
			break;
	return at;
}

/* Writes it, if all is as it should be; false: nothing was written, and nothing is raised. */
static bool put(struct rows_object *self, PyObject *const *values, PyObject *names, bool more)
{
	Py_buffer views[MAX_FIELDS];
	struct mw_column columns[MAX_FIELDS];
	uint8_t numbers[MAX_FIELDS][8];
	uint64_t seen = 0;
	Py_ssize_t many = more ? -1 : 1;
	uint32_t k;
	bool fits = true;

#ifdef Py_GIL_DISABLED
	return false;
#endif
	if (!self->rows || self->rows->busy || !names || PyTuple_Size(names) != (Py_ssize_t)self->n)
		return false;
	for (k = 0; fits && k < self->n; k++) {
		const uint32_t at = named(self, PyTuple_GetItem(names, k), k);
		const struct field *field = &self->fields[at];

		views[k].obj = NULL;
		fits = at < self->n && !(seen >> at & 1);
		if (!fits)
			break;
		seen |= (uint64_t)1 << at;
		columns[k] = field->column;
		columns[k].data = numbers[k];
		if (!more && number(field, values[k], numbers[k]))
			continue;
		fits = array(self, field, values[k], more ? &many : NULL, &views[k]);
		columns[k].data = views[k].obj ? views[k].buf : NULL;
	}
	if (fits && many > 0)
		fits = (many == 1 || (uint64_t)many * self->rows->stride <= LONGEST_HELD) &&
		       !mw_rows_put(self->rows, columns, self->n, (uint64_t)many);
	while (k-- > 0)
		if (views[k].obj)
			PyBuffer_Release(&views[k]);
	PyErr_Clear();
	return fits;
}

static PyObject *put_or(struct rows_object *self, PyObject *const *values, Py_ssize_t n, PyObject *names, bool more)
{
	PyObject *slow, *arguments, *named_values, *result = NULL;

	if (n == 0 && put(self, values, names, more))
		Py_RETURN_NONE;
	slow = PyObject_GetAttrString((PyObject *)self, more ? "_extend" : "_add");
	arguments = PyTuple_New(n);
	named_values = PyDict_New();
	if (!slow || !arguments || !named_values)
		goto out;
	for (Py_ssize_t k = 0; k < n; k++) {
		Py_INCREF(values[k]);
		if (PyTuple_SetItem(arguments, k, values[k]))
			goto out;
	}
	for (Py_ssize_t k = 0; names && k < PyTuple_Size(names); k++)
		if (PyDict_SetItem(named_values, PyTuple_GetItem(names, k), values[n + k]))
			goto out;
	result = PyObject_Call(slow, arguments, named_values);
out:
	Py_XDECREF(slow);
	Py_XDECREF(arguments);
	Py_XDECREF(named_values);
	return result;
}

static PyObject *rows_add(PyObject *self, PyObject *const *values, Py_ssize_t n, PyObject *names)
{
	return put_or((struct rows_object *)self, values, n, names, false);
}

static PyObject *rows_extend(PyObject *self, PyObject *const *values, Py_ssize_t n, PyObject *names)
{
	return put_or((struct rows_object *)self, values, n, names, true);
}

static PyObject *failed(int err)
{
	errno = -err;
	return PyErr_SetFromErrno(PyExc_OSError);
}

/* The arrays' memory, each of which must be as long as `n` rows of its field. */
static int open_columns(struct rows_object *self, PyObject *arrays, Py_ssize_t n, int flags, Py_buffer *views,
			struct mw_column *columns)
{
	uint32_t k;

	if (!self->rows || PyTuple_Size(arrays) != (Py_ssize_t)self->n) {
		PyErr_SetString(PyExc_SystemError, "memwatch: one array for each field");
		return -1;
	}
	for (k = 0; k < self->n; k++) {
		views[k].obj = NULL;
		if (PyObject_GetBuffer(PyTuple_GetItem(arrays, k), &views[k], flags))
			break;
		columns[k] = self->fields[k].column;
		columns[k].data = views[k].buf;
		if ((uint64_t)views[k].len != columns[k].bytes * (uint64_t)n) {
			PyErr_SetString(PyExc_SystemError, "memwatch: an array of another size");
			PyBuffer_Release(&views[k]);
			break;
		}
	}
	if (k == self->n)
		return 0;
	while (k-- > 0)
		PyBuffer_Release(&views[k]);
	return -1;
}

/* put(arrays, n): of the right types and shapes, contiguous, in the order of the fields. */
static PyObject *rows_put(PyObject *object, PyObject *arguments)
{
	struct rows_object *self = (struct rows_object *)object;
	Py_buffer views[MAX_FIELDS];
	struct mw_column columns[MAX_FIELDS];
	PyObject *arrays;
	Py_ssize_t n;
	int err;

	if (!PyArg_ParseTuple(arguments, "O!n:_put", &PyTuple_Type, &arrays, &n) ||
	    open_columns(self, arrays, n, PyBUF_C_CONTIGUOUS, views, columns))
		return NULL;
	self->rows->busy = 1;
	Py_BEGIN_ALLOW_THREADS
	err = mw_rows_put(self->rows, columns, self->n, (uint64_t)n);
	Py_END_ALLOW_THREADS
	self->rows->busy = 0;
	for (uint32_t k = 0; k < self->n; k++)
		PyBuffer_Release(&views[k]);
	if (err)
		return failed(err);
	Py_RETURN_NONE;
}

/* take(arrays, n, places): as put(), the other way round; places is an array of int64, or None: drawn. */
static PyObject *rows_take(PyObject *object, PyObject *arguments)
{
	struct rows_object *self = (struct rows_object *)object;
	Py_buffer views[MAX_FIELDS], given = { .obj = NULL };
	struct mw_column columns[MAX_FIELDS];
	PyObject *arrays, *places;
	int64_t here[STACK_PLACES], *drawn = here;
	Py_ssize_t n;
	int err = 0;

	if (!PyArg_ParseTuple(arguments, "O!nO:_take", &PyTuple_Type, &arrays, &n, &places) ||
	    open_columns(self, arrays, n, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE, views, columns))
		return NULL;
	if (places != Py_None)
		err = PyObject_GetBuffer(places, &given, PyBUF_C_CONTIGUOUS) ? -EINVAL : given.len == n * 8 ? 0 : -EINVAL;
	else if (n > STACK_PLACES && !(drawn = malloc((size_t)n * sizeof(*drawn))))
		err = -ENOMEM;
	else
		err = mw_rows_pick(self->rows, (uint64_t)n, drawn);
	if (!err) {
		const int64_t *at = given.obj ? given.buf : drawn;

		if ((uint64_t)n * self->rows->stride <= LONGEST_HELD) {
			err = mw_rows_take(self->rows, at, (uint64_t)n, columns, self->n);
		} else {
			self->rows->busy = 1;
			Py_BEGIN_ALLOW_THREADS
			err = mw_rows_take(self->rows, at, (uint64_t)n, columns, self->n);
			Py_END_ALLOW_THREADS
			self->rows->busy = 0;
		}
	}
	if (drawn != here)
		free(drawn);
	if (given.obj)
		PyBuffer_Release(&given);
	for (uint32_t k = 0; k < self->n; k++)
		PyBuffer_Release(&views[k]);
	if (err) {
		PyErr_Clear();
		return failed(err);
	}
	Py_RETURN_NONE;
}

static int arm_field(struct field *field, PyObject *described)
{
	unsigned long long offset, bytes;
	PyObject *shape;
	int kind, next; /* a letter; is it the next of another? */

	if (!PyArg_ParseTuple(described, "UOOCO!KKp:_arm", &field->name, &field->dtype, &field->scalar, &kind, &PyTuple_Type,
			      &shape, &offset, &bytes, &next))
		return -1;
	Py_INCREF(field->name);
	Py_INCREF(field->dtype);
	Py_INCREF(field->scalar);
	PyUnicode_InternInPlace(&field->name);
	field->kind = (char)kind;
	field->dimensions = (int)PyTuple_Size(shape);
	field->column = (struct mw_column){ .offset = offset, .bytes = bytes, .next = next != 0 };
	if (field->dimensions > MAX_DIMENSIONS) {
		PyErr_SetString(PyExc_SystemError, "memwatch: too many dimensions");
		return -1;
	}
	for (int d = 0; d < field->dimensions; d++)
		field->shape[d] = PyLong_AsSsize_t(PyTuple_GetItem(shape, d));
	return PyErr_Occurred() ? -1 : 0;
}

/* arm(address, owner, array, fields): from now on it can be used.  Once. */
static PyObject *rows_arm(PyObject *object, PyObject *arguments)
{
	struct rows_object *self = (struct rows_object *)object;
	PyObject *owner, *array_type, *fields;
	unsigned long long address;

	if (!PyArg_ParseTuple(arguments, "KOOO!:_arm", &address, &owner, &array_type, &PyTuple_Type, &fields))
		return NULL;
	if (self->owner || PyTuple_Size(fields) > MAX_FIELDS) {
		PyErr_SetString(PyExc_SystemError, "memwatch: armed twice, or too many fields");
		return NULL;
	}
	self->owner = owner;
	Py_INCREF(owner);
	self->array = array_type;
	Py_INCREF(array_type);
	self->dtype = PyUnicode_InternFromString("dtype");
	if (!self->dtype)
		return NULL;
	for (; self->n < (uint32_t)PyTuple_Size(fields); self->n++)
		if (arm_field(&self->fields[self->n], PyTuple_GetItem(fields, (Py_ssize_t)self->n)))
			return NULL;
	self->rows = (struct mw_rows *)(uintptr_t)address;
	Py_RETURN_NONE;
}

static void rows_dealloc(PyObject *object)
{
	struct rows_object *self = (struct rows_object *)object;
	PyTypeObject *type = Py_TYPE(object);

	for (uint32_t k = 0; k < self->n; k++) {
		Py_DECREF(self->fields[k].name);
		Py_DECREF(self->fields[k].dtype);
		Py_DECREF(self->fields[k].scalar);
	}
	Py_XDECREF(self->owner);
	Py_XDECREF(self->array);
	Py_XDECREF(self->dtype);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
	Py_DECREF(type);
}

int mw_install_rows(void *object)
{
	static PyMethodDef methods[] = {
		{ "add", (PyCFunction)(void (*)(void))rows_add, METH_FASTCALL | METH_KEYWORDS,
		  "add(**values): one transition, a value for each field." },
		{ "extend", (PyCFunction)(void (*)(void))rows_extend, METH_FASTCALL | METH_KEYWORDS,
		  "extend(**values): a batch of transitions, an array for each field." },
		{ "_put", rows_put, METH_VARARGS, NULL },
		{ "_take", rows_take, METH_VARARGS, NULL },
		{ "_arm", rows_arm, METH_VARARGS, NULL },
		{ NULL, NULL, 0, NULL },
	};
	static PyType_Slot slots[] = {
		{ Py_tp_methods, methods },
		{ Py_tp_dealloc, rows_dealloc },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "memwatch.replay.Rows",
		.basicsize = sizeof(struct rows_object),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
		.slots = slots,
	};
	PyGILState_STATE state = PyGILState_Ensure();
	PyObject *type = PyType_FromSpec(&spec);
	int err = type ? PyObject_SetAttrString((PyObject *)object, "Rows", type) : -1;

	Py_XDECREF(type);
	if (err)
		PyErr_Clear();
	PyGILState_Release(state);
	return err ? -ENOMEM : 0;
}
