/* Whether a program with Python in it can be compiled and linked here. */
#include <Python.h>

int main(void)
{
    Py_Initialize();
    return Py_FinalizeEx();
}
