children = []
for number in range(60):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert muninn.open("common").array.sum() == 6
            mine = muninn.share(np.full(3, number), name=f"m{number}", lifetime="lastClose")
            assert muninn.open(f"m{number}").array[0] == number
            if number % 2:
                from muninn.session import membership

                membership.current().leave()
            status = 0
        except BaseException as error:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    children.append(child)
