"""Start Limner's commands: ``python run.py --help``."""

if __name__ == "__main__":
    from limner.cli import main

    main()
