"""The smallest program: the squares of ten numbers, and their sum.

mpiexec -n 4 python -m alamo_mpi examples/hello.py
"""

from alamo_mpi import Batch


def square(number: int) -> int:
    """Square a number; runs on whichever worker is free."""
    return number * number


def total(*numbers: int) -> int:
    """Add up numbers; runs once all of them are there."""
    return sum(numbers)


with Batch() as batch:
    squares = [batch.function(square, number) for number in range(10)]
    result = batch.function(total, *squares)  # a task as an argument stands for its result
    batch.compile([*squares, result]).run()
    print("squares:", [task.result.get() for task in squares])
    print("sum:", result.result.get())
