"""CrmSettings: a connection's settings, their only home."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.requests import SettingRequest, SettingsTold
    from activities.settings import SettingsActivities
    from crm_export.model import BATCH_SIZES, MOST_CALLS, Model, Settings
    from workflows import shown, timeouts


class SettingsRequest(Model):
    """Which connection's settings; ``waiting`` are changes that a former run was signalled and had not made yet."""

    connection: str
    waiting: tuple[SettingRequest, ...] = ()


_LIMITS = f"from 1 to {MOST_CALLS:,}"
BY_SIGNAL = "signal"
"""Who changed a setting when nobody says: a bare ``temporal workflow signal`` carries no name."""


class _Change:
    def __init__(self, request: SettingRequest) -> None:
        self.request = request
        self.told: SettingsTold | None = None


@workflow.defn(name="CrmSettings")
class CrmSettings:
    """Changes a setting for good, stores it, and tells every running export; one change after the other."""

    @workflow.init
    def __init__(self, request: SettingsRequest) -> None:
        self._connection = request.connection
        self._settings = Settings()
        self._waiting = [_Change(waiting) for waiting in request.waiting]

    @workflow.run
    async def run(self, request: SettingsRequest) -> None:
        """Make each change in the order they came, without end."""
        workflow.upsert_search_attributes([shown.EXPORT_CONNECTION.value_set(self._connection)])
        self._settings = await workflow.execute_activity_method(
            SettingsActivities.load_settings,
            self._connection,
            **timeouts.STORE_WORK,
        )
        self._show()
        while not (workflow.info().is_continue_as_new_suggested() and await self._is_answered()):
            await workflow.wait_condition(lambda: bool(self._waiting))
            await self._make(self._waiting[0])
            self._waiting.pop(0)
        waiting = tuple(change.request for change in self._waiting)
        workflow.continue_as_new(SettingsRequest(connection=self._connection, waiting=waiting))

    async def _make(self, change: _Change) -> None:
        self._settings = await workflow.execute_activity_method(
            SettingsActivities.change_setting,
            change.request,
            **timeouts.STORE_WORK,
        )
        self._show()
        change.told = await workflow.execute_activity_method(
            SettingsActivities.tell_exports,
            change.request,
            start_to_close_timeout=timeouts.TELL_ALL,
            heartbeat_timeout=timeouts.HEARTBEAT,
            retry_policy=timeouts.UNTIL_IT_WORKS,
        )

    async def _is_answered(self) -> bool:
        """Let who asked for the last change have the answer; False where others wait for theirs."""
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() or bool(self._waiting))
        return workflow.all_handlers_finished()

    def _show(self) -> None:
        rows = "\n".join(f"| {name} | {value} |" for name, value in self._settings.model_dump().items())
        workflow.set_current_details(f"| setting | value |\n|---|---|\n{rows}")

    @workflow.query(description="The settings as they are now")
    def settings(self) -> Settings:
        return self._settings

    # A signal only notes the change. The update of the same name validates it, and answers once it is made.

    def _note(self, setting: str, value: bool | int, by: str) -> _Change:
        change = _Change(SettingRequest(connection=self._connection, setting=setting, value=value, by=by))
        self._waiting.append(change)
        return change

    async def _made(self, change: _Change) -> SettingsTold:
        await workflow.wait_condition(lambda: change.told is not None)
        assert change.told is not None
        return change.told

    @workflow.signal(description="Pause on export error: true or false. False releases what is held, everywhere")
    def set_pause_on_error(self, on: bool) -> None:
        self._note("pause_on_error", on, BY_SIGNAL)

    @workflow.signal(description="Export to CRM: true or false. False lets no export start")
    def set_export_enabled(self, on: bool) -> None:
        self._note("export_enabled", on, BY_SIGNAL)

    @workflow.signal(description="How many calls to the CRM a day, 1 or more")
    def set_daily_api_limit(self, calls: int) -> None:
        if not 1 <= calls <= MOST_CALLS:
            workflow.logger.warning(f"{self._connection}: a daily API limit of {calls} is not taken: {_LIMITS}")
            return
        self._note("daily_api_limit", calls, BY_SIGNAL)

    @workflow.signal(description="How many records a call to the CRM takes at most: 25, 50, 100 or 200")
    def set_export_batch_size(self, records: int) -> None:
        if records not in BATCH_SIZES:
            workflow.logger.warning(f"{self._connection}: an export batch size of {records} is not taken")
            return
        self._note("export_batch_size", records, BY_SIGNAL)

    @workflow.update(name="set_pause_on_error", description="As the signal; with who asks. Answers who is told")
    async def update_pause_on_error(self, on: bool, by: str) -> SettingsTold:
        return await self._made(self._note("pause_on_error", on, by))

    @workflow.update(name="set_export_enabled", description="As the signal; with who asks. Answers who is told")
    async def update_export_enabled(self, on: bool, by: str) -> SettingsTold:
        return await self._made(self._note("export_enabled", on, by))

    @workflow.update(name="set_daily_api_limit", description="As the signal; with who asks. Answers who is told")
    async def update_daily_api_limit(self, calls: int, by: str) -> SettingsTold:
        return await self._made(self._note("daily_api_limit", calls, by))

    @update_daily_api_limit.validator
    def _is_a_limit(self, calls: int, by: str) -> None:
        if not 1 <= calls <= MOST_CALLS:
            raise ValueError(f"the daily API limit is {_LIMITS}")

    @workflow.update(name="set_export_batch_size", description="As the signal; with who asks. Answers who is told")
    async def update_export_batch_size(self, records: int, by: str) -> SettingsTold:
        return await self._made(self._note("export_batch_size", records, by))

    @update_export_batch_size.validator
    def _is_a_batch_size(self, records: int, by: str) -> None:
        if records not in BATCH_SIZES:
            raise ValueError(f"the export batch size is one of {', '.join(map(str, BATCH_SIZES))}")
