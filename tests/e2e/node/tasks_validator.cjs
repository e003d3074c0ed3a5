// Asks the validator of the published client about every task a server lists: node tasks_validator.cjs http://127.0.0.1:8080/
'use strict'
const disco = require('@epfml/discojs-node')

fetch(process.argv[2] + 'tasks', { headers: { 'User-Agent': 'axios/0.27.2' } })
  .then(async (answer) => {
    const tasks = await answer.json()
    process.stdout.write(JSON.stringify(tasks.map((task) => ({ id: task.taskID, valid: disco.isTask(task) }))) + '\n')
  })
