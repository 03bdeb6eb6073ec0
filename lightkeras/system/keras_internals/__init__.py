"""Private parts of Keras that have no public way, one file for each subject: nothing else imports `keras.src`.

Each file says what is used, and what differs between versions of Keras. They are imported where they are needed,
because Keras is.
"""
